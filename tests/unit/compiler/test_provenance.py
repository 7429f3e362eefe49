"""Attestations: signed by this host's key, about every member of the file."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import artifacts

from compiler.errors import AttestationError
from compiler.provenance import attest, keys, predicate
from compiler.provenance import verify as verifying
from compiler.provenance.predicate import (
    External,
    GateFigures,
    Provenance,
    Recipe,
    Selection,
    Tool,
)
from fleet.artifact import package
from fleet.errors import OutriderError
from ota.errors import UnattestedError, VerificationError

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys" / "compile-key.pem"
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(file))
    return file


def provenance(**changes) -> Provenance:
    """What made the classifier of `support.artifacts`."""
    fields = {
        "asked": External(model="classify", version="1", target="test", metric="top1", budget=0.01),
        "recipe": Recipe(name="fp32", settings={"mode": "fp32"}, calibrator="mse", kept=["conv_1"]),
        "digests": {
            "model": artifacts.classify().manifest.source_sha256,
            "calibration": "cd" * 32,
            "evaluation": "ef" * 32,
        },
        "gates": {
            "structure": GateFigures(passed=True, detail="3 operators"),
            "metric": GateFigures(
                passed=True, detail="top1", figures={"value": 0.9, "reference": 0.9, "loss": 0.0}
            ),
        },
        "tools": (
            Tool(
                name="onnx", lock_sha256="01" * 32, driver_sha256="23" * 32, packages={"onnx": "1"}
            ),
        ),
        "selection": Selection(seed=7, samples=100, held_out=400),
        "host": {"machine": "aarch64"},
        "versions": {"outrider": "0"},
    }
    return Provenance(**(fields | changes))


def made(content=None, **changes) -> bytes:
    """An attested artifact's file."""
    content = content or artifacts.classify()
    return package.write(attest.attest(content, keys.signer(), provenance(**changes)))


@pytest.fixture
def attested() -> bytes:
    return made()


def changed(data: bytes, member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == member else old.read(name))
        if member not in old.namelist():
            new.writestr(member, content)
    return buffer.getvalue()


def test_a_statement_says_what_made_the_artifact(attested: bytes) -> None:
    found = verifying.verify(attested, keys.trusted())
    definition = found.predicate.build_definition
    assert definition.external_parameters.target == "test"
    assert definition.internal_parameters.recipe.kept == ["conv_1"]
    assert definition.internal_parameters.selection.seed == 7
    went_in = {r.name: r.digest["sha256"] for r in definition.resolved_dependencies}
    assert set(went_in) == {"model", "calibration", "evaluation", "toolchain:onnx", "driver:onnx"}
    assert went_in["toolchain:onnx"] == "01" * 32
    assert found.predicate.gates["metric"].figures["value"] == 0.9
    assert {subject.name for subject in found.statement.subject} == {
        "golden.npz", "manifest.json", "model.onnx",
    }  # fmt: skip
    assert [step.name for step in found.steps] == [
        "signature", "members", "payload", "identity", "gates",
    ]  # fmt: skip


def test_the_same_content_and_key_make_the_same_bytes(attested: bytes) -> None:
    assert made() == attested


@given(
    st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False)),
    st.sampled_from([True, False, None]),
    st.lists(st.text(max_size=8), max_size=3),
)
def test_what_is_stated_is_what_is_read(figures, passed, kept) -> None:
    gate = GateFigures(passed=passed, detail="d", figures=figures)
    stated = provenance(gates={"parity": gate}, recipe=Recipe(name="r", kept=kept))
    document = msgspec.json.decode(msgspec.json.encode(stated.predicate("k")))
    found = predicate.read(document)
    assert found == stated.predicate("k")
    assert found.gates == {"parity": gate}
    assert found.build_definition.internal_parameters.recipe.kept == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": {"metric": GateFigures(passed=False, detail="")}}, "found 'accepted'"),
        ({"gates": {"metric": GateFigures(passed=None, detail="")}}, "what stands in"),
        ({"gates": {}}, "no gates"),
        (
            {"gates": {"metric": GateFigures(passed=True, detail="", figures={"value": 0.8})}},
            "metric.value: expected 0.8",
        ),
        ({"recipe": Recipe(name="other")}, "recipe: expected 'other'"),
        ({"digests": {"model": "00" * 32}}, "source_sha256"),
    ],
)
def test_a_manifest_that_claims_more_than_was_attested_is_told(changes, message: str) -> None:
    with pytest.raises(AttestationError, match=message):
        verifying.verify(made(**changes), keys.trusted())


def test_a_statement_in_another_form_is_no_traceback(attested: bytes) -> None:
    content = artifacts.attested(package.read(attested))
    public = artifacts.host_key().public_key()
    with pytest.raises(AttestationError, match="with the version that made it"):
        verifying.verify(package.write(content), keys.by_id(public))


def test_the_published_schema_holds_what_is_stated(attested: bytes) -> None:
    schema = json.loads((DOCS / "reference" / "provenance.schema.json").read_text())
    found = verifying.verify(attested, keys.trusted())
    jsonschema.validate(found.statement.predicate, schema)
    broken = found.statement.predicate | {"runDetails": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_other_hosts_are_known_by_their_public_keys(
    attested: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hosts"
    folder.mkdir()
    with pytest.raises(AttestationError, match="found none"):
        keys.folder(folder)
    (folder / "builder.pem").write_text(keys.public_pem())
    (folder / "other.pem").write_text(artifacts.host_pem())
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(tmp_path / "mine.pem"))
    assert verifying.verify(attested, keys.folder(folder)).manifest.model == "classify"
    (folder / "junk.pem").write_text("junk")
    with pytest.raises(AttestationError, match=r"junk\.pem"):
        keys.folder(folder)


def test_every_member_is_covered(attested: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(attested)) as archive:
        manifest = archive.read("manifest.json")
    golden = package.npz_bytes({})
    for member, content in (
        ("manifest.json", manifest.replace(b'"status":', b'"status": ')),
        ("golden.npz", golden),
        ("model.onnx", b"another"),
        ("more.bin", b"smuggled"),
    ):
        forged = changed(attested, member, content)
        assert forged != attested
        with pytest.raises(OutriderError):
            verifying.verify(forged, keys.trusted())


def test_another_hosts_key_does_not_count(
    attested: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(tmp_path / "other.pem"))
    with pytest.raises(VerificationError):
        verifying.verify(attested, keys.trusted())


def test_an_artifact_without_one_is_told() -> None:
    with pytest.raises(UnattestedError, match="found none"):
        verifying.verify(package.write(artifacts.classify()), keys.trusted())


def test_the_key_is_made_once_and_is_the_owners_only(key: Path) -> None:
    first = keys.trusted()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert keys.trusted().keys() == first.keys()
    assert [path.name for path in key.parent.iterdir()] == [key.name]


def test_a_key_file_that_is_none_is_named(key: Path) -> None:
    key.parent.mkdir(parents=True)
    key.write_text("junk")
    with pytest.raises(AttestationError, match=r"compile-key\.pem: expected an Ed25519"):
        keys.signer()
