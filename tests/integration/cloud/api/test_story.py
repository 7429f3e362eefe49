"""A release's way through the API, over real HTTP, and what the API answers to mistakes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import clouds, pushed_folders
from support.clouds import Cloud
from support.installation import eventually
from support.served import Served

from cloud.auth.roles import Role

Client = Callable[[Role | None], httpx.Client]
V1 = "/api/v1"


@pytest.fixture
def admin(client: Client) -> httpx.Client:
    return client(Role.ADMIN)


def ok(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def test_from_a_folder_to_a_fleet(cloud: Cloud, admin: httpx.Client, tmp_path: Path) -> None:
    archive = pushed_folders.packed(pushed_folders.write(tmp_path / "m"))
    pushed = ok(admin.post(f"{V1}/models", content=archive))
    assert (pushed["name"], pushed["version"]) == ("digits", "1")
    job = ok(admin.post(f"{V1}/models/digits/1/compile", json={"targets": ["onnx-cpu"]}))["job"]
    assert ok(admin.get(f"{V1}/jobs/{job}"))["state"] == "queued"
    artifact = cloud.add_artifact()
    assert admin.get(f"{V1}/artifacts/{artifact.sha256}/file").content == cloud.context.blobs.read(
        artifact.sha256
    )
    released = ok(admin.post(f"{V1}/releases", json={"model": "digits", "version": "1"}))
    assert released["release"]["id"] == "digits@1"

    device = clouds.enrol(cloud, "cam-1")
    device.connect()
    body = {"release": "digits@1", "waves": [100], "soak_s": 0, "cohort": {"devices": ["cam-1"]}}
    assert ok(admin.post(f"{V1}/rollouts/preview", json=body))["waves"] == [["cam-1"]]
    rollout = ok(admin.post(f"{V1}/rollouts", json=body | {"start": True}))["line"]["id"]
    device.update()
    found = ok(admin.get(f"{V1}/rollouts/{rollout}"))
    assert found["members"][0]["at_goal"] is True
    for path in ("fleet", "devices", "devices/cam-1", "models", "models/digits", "models/digits/1",
                 "artifacts?model=digits", "releases", "releases/digits@1", "rollouts", "jobs",
                 "audit", "tokens"):  # fmt: skip
        assert ok(admin.get(f"{V1}/{path}"))
    for path in ("windows", "events"):
        assert ok(admin.get(f"{V1}/devices/cam-1/{path}")) == []
    assert ok(admin.post(f"{V1}/rollouts/{rollout}/rollback"))["line"]["state"] == "rolled_back"
    verdict = ok(admin.get(f"{V1}/audit/verify"))
    assert (verdict["intact"], verdict["entries"] >= 8) == (True, True)


def test_a_claim_says_what_to_type_on_the_device(admin: httpx.Client) -> None:
    made = ok(admin.post(f"{V1}/devices/claims", json={"device": "cam-1", "labels": {"a": "b"}}))
    assert made["command"].startswith("outrider-agent enroll --config agent.toml --url https://")
    assert made["code"] in made["command"]
    assert made["ca_sha256"] in made["command"]
    unnamed = ok(admin.post(f"{V1}/devices/claims", json={}))
    assert unnamed["device"].startswith("device-")


MISTAKES = {
    "an unknown device": ("GET", "devices/ghost", None, 404, "registry.not_found"),
    "an unknown model": ("GET", "models/ghost", None, 404, "registry.not_found"),
    "an unknown rollout": ("POST", "rollouts/ghost/pause", {}, 404, "registry.not_found"),
    "an unknown order": ("POST", "rollouts/ghost/dance", {}, 422, "cloud.input"),
    "an unknown page": ("GET", "nowhere", None, 404, "http.404"),
    "a wrong method": ("DELETE", "models", None, 405, "http.405"),
    "an unknown field": ("POST", "rollouts", {"release": "a@1", "wave": 1}, 422, "cloud.input"),
    "a missing field": ("POST", "rollouts", {}, 422, "cloud.input"),
    "no targets": ("POST", "models/a/1/compile", {"targets": []}, 422, "cloud.input"),
    "a version to compile that is not there": (
        "POST", "models/a/1/compile", {"targets": ["t"]}, 404, "registry.not_found",
    ),
    "an archive that is none": ("POST", "models", "not a zip", 422, "cloud.input"),
    "a device name that is none": (
        "POST", "devices/claims", {"device": "a/b"}, 422, "wire.malformed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_answered_in_one_form(admin: httpx.Client, what: str) -> None:
    method, path, body, status, code = MISTAKES[what]
    answer = admin.request(method, f"{V1}/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert len(error["message"]) > 8
    assert error["retryable"] is False


def test_health_readiness_and_metrics_need_no_token(client: Client, running: Served) -> None:
    anybody = client(None)
    clouds.enrol(running.cloud, "cam-1").connect()
    assert ok(anybody.get("/healthz")) == {"status": "ok"}
    assert ok(anybody.get("/readyz"))["ready"] is True
    running.app.state.checks = {"gateway": lambda: False}
    assert anybody.get("/readyz").status_code == 503
    text = anybody.get("/metrics").text
    assert 'outrider_devices{state="online"} 1.0' in text
    assert "cam-1" not in text


class Listener:
    """Reads server-sent events in a thread."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.open = threading.Event()
        self._client, self._path = client, path
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        assert self.open.wait(10)

    def _read(self) -> None:
        with self._client.stream("GET", self._path, timeout=30) as answer:
            topic = ""
            for line in answer.iter_lines():
                self.open.set()
                if line.startswith("event:"):
                    topic = line[6:].strip()
                elif line.startswith("data:"):
                    self.events.append((topic, json.loads(line[5:])))


@pytest.fixture
def listen(client: Client, running: Served) -> Iterator[Callable[[str], Listener]]:
    made: list[Listener] = []

    def one(path: str) -> Listener:
        made.append(Listener(client(Role.VIEWER), path))
        return made[-1]

    yield one
    running.app.state.closing = True
    for listener in made:
        listener.thread.join(10)
        assert not listener.thread.is_alive(), "an event stream outlived its server"


def test_what_changes_is_streamed_as_it_changes(
    running: Served, listen: Callable[[str], Listener]
) -> None:
    everything = listen(f"{V1}/events")
    some = listen(f"{V1}/events?topic=rollout&topic=model")
    clouds.enrol(running.cloud, "cam-1").connect()
    eventually(lambda: ("device", {"device": "cam-1"}) in everything.events, "the device is told")
    running.cloud.context.bus.publish("model", {"model": "digits"})
    eventually(lambda: some.events, "the model is told")
    assert some.events == [("model", {"model": "digits"})]
