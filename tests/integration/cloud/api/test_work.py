"""What a worker says over the API, when it is well and when it is not; and what `outrider job` shows of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from support import pushed_folders, work_results
from support.clouds import Cloud
from support.served import Served

from cloud.api.routes import work
from cloud.auth import ca
from cloud.auth.roles import Role
from cloud.services import incoming, jobs, models
from fleet.cli import group, output

Client = Callable[[Role | None], httpx.Client]


def csr() -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return (
        builder.sign(ca.new_key(), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


class Box:
    """A worker that speaks by hand."""

    def __init__(self, client: httpx.Client, name: str) -> None:
        self.client = client
        self.name = name
        body = {"name": name, "toolchains": ["onnx"], "host": {"cores": 2}, "csr": csr()}
        self.papers = client.post("/api/v1/workers", json=body).raise_for_status().json()
        self.speaker = {"worker": name, "session": self.papers["session"]}

    def say(self, unit: str, what: str, **body: Any) -> httpx.Response:
        return self.client.post(f"/api/v1/units/{unit}/{what}", json=self.speaker | body)

    def send(self, unit: str, data: bytes, attempt: int = 1) -> httpx.Response:
        query = self.speaker | {"attempt": str(attempt)}
        return self.client.post(f"/api/v1/units/{unit}/artifacts", params=query, content=data)


@pytest.fixture
def box(client: Client) -> Iterator[Box]:
    return Box(client(Role.WORKER), "box")


@pytest.fixture
def unit(cloud: Cloud, tmp_path: Path) -> str:
    """A queued unit of a job for a pushed model."""
    archive = tmp_path / "digits.zip"
    archive.write_bytes(pushed_folders.packed(pushed_folders.write(tmp_path / "digits")))
    models.push(cloud.context, archive, by="ann")
    made = jobs.submit(cloud.context, model="digits", version="1", targets=["onnx-cpu"], by="ann")
    return f"{made.id}-0"


def test_a_unit_goes_its_whole_way(
    box: Box, unit: str, client: Client, cloud: Cloud, tmp_path: Path
) -> None:
    begun = box.say(unit, "begin").json()
    assert (begun["order"], begun["targets"], begun["attempt"]) == ("work", ["onnx-cpu"], 1)
    archive = box.client.get(f"/api/v1/units/{unit}/folder").content
    assert archive == (tmp_path / "digits.zip").read_bytes()
    told = box.say(unit, "progress", attempt=1, progress=0.5, message="half", said="line")
    assert told.json() == {"go_on": True}
    viewer = client(Role.VIEWER)
    assert viewer.get("/api/v1/workers").json()[0]["units"] == [unit]
    results = work_results.handed(tmp_path / "out", "onnx-cpu")
    digest = box.send(unit, results.files[0].read_bytes()).json()["sha256"]
    body = {"attempt": 1, "report": results.report, "artifacts": [digest]}
    for _ in range(2):  # the first answer may have been lost
        assert box.say(unit, "results", **body).json() == {"state": "done"}
        box.send(unit, results.files[0].read_bytes())
    job = viewer.get(f"/api/v1/jobs/{unit[:-2]}").json()
    assert (job["state"], job["progress"]) == ("done", 1.0)
    assert cloud.context.blobs.has(digest)
    entries = viewer.get("/api/v1/audit").json()
    assert [it["action"] for it in entries if it["actor"] == "worker:box"] == ["compile.finish"]


def test_what_is_too_large_is_refused_and_leaves_nothing(
    box: Box, unit: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.say(unit, "begin")
    monkeypatch.setattr(incoming, "MAX_ARTIFACT_BYTES", 1000)
    monkeypatch.setattr(work, "MAX_REPORT_BYTES", 1000)
    refused = box.send(unit, b"x" * 1001)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "cloud.input")
    assert "at most 1000 bytes" in refused.text
    report = {"attempt": 1, "report": {"targets": ["x" * 2000]}, "artifacts": []}
    assert "a report of at most 1000 bytes" in box.say(unit, "results", **report).text
    assert list(cloud.context.settings.path("work", "incoming", unit).iterdir()) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"report": 1}'])
def test_results_that_are_no_results_are_refused_with_the_reason(
    box: Box, unit: str, body: bytes
) -> None:
    box.say(unit, "begin")
    answer = box.client.post(f"/api/v1/units/{unit}/results", content=body)
    assert answer.status_code == 422
    assert "hand in a report" in answer.json()["error"]["message"]


def test_nobody_speaks_for_another(box: Box, unit: str, client: Client) -> None:
    other = Box(client(Role.WORKER), "other")
    box.say(unit, "begin")
    assert other.send(unit, b"x").status_code == 422, "it never began"
    other.speaker["worker"] = "box"
    for what in ("progress", "failure", "return"):
        body = {"attempt": 1, "progress": 1.0, "message": "x"}
        allowed = {k: v for k, v in body.items() if what != "return" or k == "attempt"}
        allowed.pop("progress", None) if what == "failure" else None
        refused = other.say(unit, what, **allowed)
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            403,
            "cloud.worker_unknown",
        )


def test_an_artifact_that_was_not_sent_is_named(box: Box, unit: str, tmp_path: Path) -> None:
    box.say(unit, "begin")
    report = work_results.handed(tmp_path / "out", "onnx-cpu").report
    answer = box.say(unit, "results", attempt=1, report=report, artifacts=["../../registry"])
    assert answer.status_code == 422
    assert "'../../registry'" in answer.json()["error"]["message"]


def test_the_clouds_own_name_is_taken(client: Client) -> None:
    body = {"name": "cloud", "toolchains": [], "csr": csr()}
    assert client(Role.WORKER).post("/api/v1/workers", json=body).status_code == 422
    bad = {"name": "a b", "toolchains": [], "csr": csr()}
    assert client(Role.WORKER).post("/api/v1/workers", json=bad).status_code == 422
    no_key = {"name": "ok", "toolchains": [], "csr": "no request"}
    answer = client(Role.WORKER).post("/api/v1/workers", json=no_key)
    assert answer.json()["error"]["code"] == "cloud.enrolment"


def test_the_command_line_shows_and_orders_jobs(
    box: Box, unit: str, running: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    def outrider(*words: str) -> tuple[int, str]:
        given = ["--server", running.url, "--token", running.tokens[Role.ADMIN]]
        code = output.guarded(
            lambda: group.build()(args=["job", *words, *given], standalone_mode=False)
        )
        return code, capsys.readouterr().out

    job = unit[:-2]
    assert job in outrider("list")[1].replace("\n", "")
    assert json.loads(outrider("list", "--state", "done", "--json")[1]) == []
    box.say(unit, "begin")
    box.say(unit, "progress", attempt=1, progress=0.5, message="half", said="the last line")
    assert "box" in outrider("workers")[1]
    assert "running" in outrider("show", job)[1]
    assert "the last line" in outrider("log", job)[1]
    assert outrider("retry", job)[0] == 1
    assert "cancelled" in outrider("cancel", job)[1]
    assert "queued" in outrider("retry", job)[1]
    assert outrider("forget", "box")[0] == 0
    assert outrider("show", "nothing")[0] == 1
