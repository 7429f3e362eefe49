"""The commands `model`, `release`, `rollout` and `device`, as processes against a real server."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from support import clouds, pushed_folders
from support.clouds import Cloud, Endpoint
from support.commands import Run
from support.installation import eventually
from support.served import Served

from cloud.auth.roles import Role
from cloud.services import rollouts


def devices(cloud: Cloud, *names: str) -> list[Endpoint]:
    made = [clouds.enrol(cloud, name) for name in names]
    for device in made:
        device.connect()
    return made


def test_pushing_twice_is_one_version(run: Run, tmp_path: Path) -> None:
    folder = pushed_folders.write(tmp_path / "digits")
    assert "digits@1" in run("model", "push", str(folder)).out
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("left out")
    assert run("model", "push", str(folder), "--json").document["version"] == "1"
    assert run("model", "list", "--json").document[0]["versions"] == 1
    assert "top1" in run("model", "show", "digits").out


def test_what_cannot_be_pushed_is_said_by_name(run: Run, tmp_path: Path) -> None:
    nothing = run("model", "push", str(tmp_path / "nothing"))
    assert nothing.code == 1
    assert "outrider.toml" in nothing.err
    folder = pushed_folders.write(tmp_path / "digits")
    (folder / "model.onnx").write_bytes(b"junk")
    refused = run("model", "push", str(folder), "--json")
    assert refused.code == 1
    assert refused.document["error"]["code"] == "cloud.input"
    assert "model.onnx" in refused.err


def test_releases(run: Run, cloud: Cloud) -> None:
    cloud.release()
    cloud.clock.now += 1
    cloud.publish_model(version="2")
    cloud.add_artifact(version="2")
    cloud.add_artifact(version="2", target="rtx-ada", status="unproven")
    created = run("release", "create", "digits@2")
    assert "left out: rtx-ada (unproven)" in created.out
    assert [r["id"] for r in run("release", "list", "--json").document] == ["digits@2", "digits@1"]
    assert "onnx-cpu" in run("release", "show", "digits@2").out
    assert run("release", "create", "digits").code == 2
    assert run("release", "create", "ghost@1").code == 1


def test_a_rollout_is_watched_to_its_end(run: Run, cloud: Cloud) -> None:
    cloud.release()
    first, second = devices(cloud, "cam-1", "cam-2")
    preview = run("rollout", "preview", "digits@1", "--wave", "50", "--wave", "100")
    assert "cam-1" in preview.out
    assert "litert-cpu" in preview.out
    stop = threading.Event()
    committed = set()

    def fleet() -> None:
        while not stop.wait(0.05):
            rollouts.tick(cloud.context)
            for device in (first, second):
                device.fetch()
                if device.wanted and device.name not in committed:
                    device.report("committed")
                    committed.add(device.name)

    thread = threading.Thread(target=fleet)
    thread.start()
    try:
        words = ["--wave", "50", "--wave", "100", "--soak", "0s", "--wait", "--json"]
        done = run("rollout", "start", "digits@1", *words)
    finally:
        stop.set()
        thread.join()
    assert (done.code, done.document["line"]["state"]) == (0, "succeeded"), done.err
    assert [wave["status"] for wave in done.document["waves"]] == ["passed", "passed"]


def test_a_rollout_that_pauses_ends_the_wait_with_status_one(run: Run, cloud: Cloud) -> None:
    cloud.release()
    (device,) = devices(cloud, "cam-1")
    stop = threading.Event()

    def fleet() -> None:
        eventually(lambda: device.fetch() or device.wanted or stop.is_set(), "it is assigned")
        device.report("failed", error_code="update.self_test")

    thread = threading.Thread(target=fleet)
    thread.start()
    try:
        done = run("rollout", "start", "digits@1", "--wave", "100", "--wait")
    finally:
        stop.set()
        thread.join()
    assert done.code == 1
    assert "hard gate: 1 of 1 devices failed" in done.out
    for order, state in (("resume", "running"), ("pause", "paused"), ("rollback", "rolled_back")):
        given = run("rollout", order, "latest", "--json")
        assert given.document["line"]["state"] == state
    listed = run("rollout", "list", "--json").document
    shown = run("rollout", "show", listed[0]["id"][:12], "--json").document
    assert shown["line"]["id"] == listed[0]["id"]


def test_devices(run: Run, cloud: Cloud) -> None:
    devices(cloud, "cam-1")
    claimed = run("device", "claim", "cam-2", "--label", "site=lab", "--expires", "10m")
    assert "outrider-agent enroll" in claimed.out
    assert "cam-1" in run("device", "list").out
    assert "litert 2" in run("device", "show", "cam-1").out
    assert run("device", "show", "ghost").code == 1
    assert run("device", "revoke", "cam-1", "--yes").code == 0
    assert run("device", "list", "--json").document == []
    assert run("device", "list", "--revoked", "--json").document[0]["revoked"] is True
    assert run("device", "claim", "--label", "nonsense").code == 2
    assert run("device", "claim", "--expires", "soon").code == 2


def test_without_a_cloud_it_is_said_how_to_get_one(run: Run) -> None:
    nowhere = run("device", "list", OUTRIDER_URL="")
    assert nowhere.code == 1
    assert "outrider up" in nowhere.err
    silent = run("device", "list", OUTRIDER_URL="http://127.0.0.1:1")
    assert (silent.code, "does not answer" in silent.err) == (1, True)
    stranger = run("device", "list", OUTRIDER_TOKEN="ot_wrong")
    assert (stranger.code, "cloud.unauthenticated" in stranger.err) == (1, True)


def test_the_admin_token_of_a_folder_goes_to_its_own_cloud_only(
    run: Run, running: Served, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "endpoints.json").write_text(json.dumps({"api": running.url}))
    (data / "admin.token").write_text(running.tokens[Role.ADMIN])
    found = {"OUTRIDER_URL": "", "OUTRIDER_TOKEN": "", "OUTRIDER_DATA": str(data)}
    assert run("device", "list", "--json", **found).document == []
    (data / "endpoints.json").write_text(json.dumps({"api": "http://127.0.0.1:1"}))
    other = run("device", "list", "--server", running.url, **found)
    assert "cloud.unauthenticated" in other.err


@pytest.mark.parametrize("command", ["model", "release", "rollout", "device"])
def test_help_teaches(run: Run, command: str) -> None:
    shown = run(command, "--help")
    assert shown.code == 0
    assert "\\b" not in shown.out
    assert "outrider" in shown.out or command == "release"
