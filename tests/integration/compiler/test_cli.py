"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support import model_folders

from fleet.artifact import package


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cli")
    model_folders.write(place / "tiny")
    done = outrider(
        place, "compile", "tiny", "--target", "onnx-cpu", "--out", "out", "--json", check=True
    )
    assert json.loads(done.stdout)["targets"][0]["status"] == "accepted"
    return place


def outrider(place: Path, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(place / "home"),
        "OUTRIDER_TOOLCHAINS": str(place / "toolchains"),
        "COLUMNS": "160",
    }
    return subprocess.run(
        [sys.executable, "-m", "fleet.cli.root", *arguments],
        cwd=place, env=environment, check=check, capture_output=True, text=True,
    )  # fmt: skip


ARTIFACT = "out/tiny-3-onnx-cpu.outrider"


def test_compile_prints_what_was_tried(place: Path) -> None:
    done = outrider(place, "compile", "tiny", "--target", "onnx-cpu", "--out", "out2", check=True)
    assert "onnx_fp32" in done.stdout
    assert "accepted" in done.stdout
    assert "outrider toolchain install onnx" in " ".join(done.stdout.split())
    assert "out2/tiny-3-onnx-cpu.outrider" in done.stdout


def test_a_target_without_an_artifact_is_status_1(place: Path) -> None:
    done = outrider(place, "compile", "tiny", "--target", "rtx-ada", "--out", "out3")
    assert done.returncode == 1
    assert "no artifact" in done.stdout
    assert (place / "out3" / "report.json").is_file()


def test_run_answers_in_the_models_own_terms(place: Path) -> None:
    raw = model_folders.images(37, 5)
    np.savez(place / "in.npz", image=raw)
    outrider(
        place, "artifact", "run", ARTIFACT, "--input", "in.npz", "--output", "out.npz", check=True
    )
    with np.load(place / "out.npz") as found:
        expected = model_folders.answers(model_folders.classifier(), raw)
        np.testing.assert_allclose(found["probs"], expected, atol=1e-5)


def test_run_refuses_arrays_that_do_not_fit(place: Path) -> None:
    np.savez(place / "bad.npz", picture=np.zeros((1, 8, 8, 3), np.uint8))
    done = outrider(place, "artifact", "run", ARTIFACT, "--input", "bad.npz", "--output", "x.npz")
    assert done.returncode == 1
    assert "compiler.data" in done.stderr
    assert "'picture'" in done.stderr
    assert not (place / "x.npz").exists()


def test_show_and_verify(place: Path) -> None:
    shown = json.loads(outrider(place, "artifact", "show", ARTIFACT, "--json", check=True).stdout)
    assert shown["recipe"] == "onnx_fp32"
    assert shown["attested"] is True
    assert "onnx_fp32" in outrider(place, "artifact", "show", ARTIFACT, check=True).stdout
    verified = json.loads(
        outrider(place, "artifact", "verify", ARTIFACT, "--json", check=True).stdout
    )
    assert verified["verified"] is True
    assert set(verified["proved"]) == {"signature", "members", "payload", "identity", "gates"}
    (place / "host.pem").write_text(outrider(place, "artifact", "key", check=True).stdout)
    human = outrider(place, "artifact", "verify", ARTIFACT, "--key", "host.pem", check=True).stdout
    assert "no gate failed" in human
    assert "calibration" in human
    content = package.read((place / ARTIFACT).read_bytes())
    better = msgspec.structs.replace(content.manifest, evidence="overwhelming")
    forged = package.write(msgspec.structs.replace(content, manifest=better))
    (place / "forged.outrider").write_bytes(forged)
    refused = outrider(place, "artifact", "verify", "forged.outrider")
    assert refused.returncode == 1
    assert "ota.unattested" in refused.stderr


def test_mistakes_are_told_in_one_line(place: Path) -> None:
    for arguments in (
        ("compile", "nowhere", "--target", "onnx-cpu", "--out", "o"),
        ("artifact", "show", "nothing.outrider"),
        ("artifact", "show", "tiny/model.onnx"),
    ):
        done = outrider(place, *arguments)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "expected" in done.stderr
    assert outrider(place, "compile", "tiny", "--target", "toaster").returncode == 2


def test_toolchains_are_listed_and_absent_ones_diagnosed(place: Path) -> None:
    listed = json.loads(outrider(place, "toolchain", "list", "--json", check=True).stdout)
    locked = {row["name"] for row in listed if not row["supplied"]}
    assert locked == {"litert", "onnx", "tensorrt-rtx", "vela"}
    assert not any(row["installed"] for row in listed)
    doctor = outrider(place, "toolchain", "doctor", "onnx", check=True)
    assert "absent" in doctor.stdout
    assert "nothing was installed" in outrider(place, "toolchain", "remove", "onnx").stdout


def test_targets_are_listed_shown_and_unknown_ones_refused(place: Path) -> None:
    listed = json.loads(outrider(place, "target", "list", "--json", check=True).stdout)
    found = {row["name"]: row for row in listed}
    assert found["jetson-thor"]["toolchains"]["trt_onnx_fp16"] == "the device"
    shown = outrider(place, "target", "show", "ethos-u55-128", check=True).stdout
    assert "vela_litert_static_wi8_ai8" in shown
    assert "no host: they are estimates" in shown
    unknown = outrider(place, "target", "show", "toaster")
    assert unknown.returncode == 1
    assert "expected a target of cpu-arm64" in " ".join(unknown.stderr.split())
