"""Rows of the registry for tests: legal ones, which a test then bends."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from fleet.registry.tables import (
    Artifact,
    Device,
    Job,
    Received,
    Release,
    ReleaseVariant,
    Rollout,
    TelemetryWindow,
    Trial,
)

NOW = 1_800_000_000.0
BIG = 2**62


def device(name: str = "d1", **changes: Any) -> Device:
    return Device(**{"id": name, "tenant": "default", "created_at": NOW, **changes})


def artifact(sha256: str = "a1", **changes: Any) -> Artifact:
    fields = {
        "sha256": sha256, "model": "m", "version": "1", "target": "t", "runtime": "litert",
        "runtime_version": "1", "recipe": "fp32", "status": "accepted", "evidence": "strong",
        "size_bytes": BIG, "block_size_bytes": 1024, "blocks_sha256": "b", "blocks_length_bytes": 1,
        "created_at": NOW,
    }  # fmt: skip
    return Artifact(**(fields | changes))


def job(**changes: Any) -> Job:
    fields = {"id": "j", "model": "m", "version": "1", "created_at": NOW, "created_by": "x"}
    return Job(**(fields | changes))


def rollout(name: str = "r1", **changes: Any) -> Rollout:
    fields = {
        "id": name, "release": "m@1", "model": "m", "created_at": NOW, "created_by": "x",
        "updated_at": NOW,
    }  # fmt: skip
    return Rollout(**(fields | changes))


def trial(name: str = "t1", **changes: Any) -> Trial:
    fields = {
        "id": name, "artifact": "a1", "model": "m", "version": "1", "target": "t", "device": "d1",
        "hardware_class": "h", "created_at": NOW, "created_by": "x",
    }  # fmt: skip
    return Trial(**(fields | changes))


def received(seq: int, **changes: Any) -> Received:
    fields = {
        "device": "d1", "boot_epoch": "e1", "seq": seq, "kind": "telemetry", "received_at": NOW,
    }  # fmt: skip
    return Received(**(fields | changes))


def window(seq: int, **changes: Any) -> TelemetryWindow:
    fields = {
        "device": "d1", "boot_epoch": "e1", "seq": seq, "model": "m", "release": "m@1",
        "sha256": "a1", "started": NOW, "ended": NOW + seq, "inferences": 10, "errors": 1,
        "window": b"\x00\xff", "received_at": NOW,
    }  # fmt: skip
    return TelemetryWindow(**(fields | changes))


def populate(session: Session) -> None:
    """One row of most tables."""
    for row in (
        device(),
        artifact(),
        Release(
            id="m@1", model="m", version="1", security_floor="", created_at=NOW, created_by="x"
        ),
        Release(
            id="m@2-candidate.x",
            model="m",
            version="2-candidate.x",
            security_floor="",
            created_at=NOW,
            created_by="x",
            candidate_for="d2",
        ),
    ):
        session.add(row)
    session.flush()
    session.add(ReleaseVariant(release="m@1", target="t", artifact="a1", path="m/1/t.outrider"))
    session.add(rollout())
    session.flush()
