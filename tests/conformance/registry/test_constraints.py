"""What the database itself refuses, on each database that the registry runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session
from support.registry_rows import (
    NOW,
    artifact,
    device,
    job,
    populate,
    received,
    rollout,
    trial,
    window,
)

from fleet.registry import engine as registry
from fleet.registry.tables import (
    Assignment,
    AuditEntry,
    Claim,
    DesiredModel,
    DeviceEvent,
    DeviceKey,
    DeviceModel,
    DriftState,
    LoginSession,
    ReleaseVariant,
    Report,
    RolloutDevice,
    RolloutStep,
    Token,
    TrustFile,
)

ILLEGAL = {
    "a device without a name": device(""),
    "a name that is too long": device("x" * 65),
    "a device twice": device(),
    "a counter below zero": device("d2", assignment_counter=-1),
    "a key of nobody": DeviceKey(
        serial="s", device="nobody", key_id="k", public_key=b"", certificate="", not_before=NOW,
        not_after=NOW + 1, created_at=NOW,
    ),
    "a certificate that ends before it begins": DeviceKey(
        serial="s", device="d1", key_id="k", public_key=b"", certificate="", not_before=NOW,
        not_after=NOW, created_at=NOW,
    ),
    "a claim that has expired at birth": Claim(
        code_sha256="c", tenant="default", device="d", created_at=NOW, created_by="x", expires_at=NOW
    ),
    "a claim that was used too late": Claim(
        code_sha256="c", tenant="default", device="d", created_at=NOW, created_by="x",
        expires_at=NOW + 1, used_at=NOW + 2,
    ),
    "progress above one": DeviceModel(device="d1", model="m", progress=1.5),
    "a desired model of nobody": DesiredModel(
        device="nobody", model="m", release="m@1", artifact="a1", updated_at=NOW
    ),
    "a desired model without its artifact": DesiredModel(
        device="d1", model="m", release="m@1", artifact="gone", updated_at=NOW
    ),
    "an assignment with counter zero": Assignment(
        device="d1", counter=0, document=b"", created_at=NOW, expires_at=NOW
    ),
    "an artifact of no size": artifact("a2", size_bytes=0),
    "an artifact with an unknown status": artifact("a2", status="perfect"),
    "an unknown job state": job(state="sleeping"),
    "an unknown kind of job": job(kind="dance"),
    "a finished job without an end": job(state="done"),
    "a running job with an end": job(state="running", finished_at=NOW),
    "a variant under a taken path": ReleaseVariant(
        release="m@1", target="u", artifact="a1", path="m/1/t.outrider"
    ),
    "an unknown rollout state": rollout("r2", state="dancing"),
    "a rollout of no release": rollout("r2", release="m@9"),
    "a member without a variant": RolloutDevice(
        rollout="r1", device="d1", position=0, state="pending", updated_at=NOW
    ),
    "a member assigned by no counter": RolloutDevice(
        rollout="r1", device="d1", position=0, state="assigned", artifact="a1", updated_at=NOW
    ),
    "half of what was before": RolloutDevice(
        rollout="r1", device="d1", position=0, artifact="a1", previous_release="m@0", updated_at=NOW
    ),
    "a sequence number below zero": received(-1),
    "a row that stands for none": received(1, covers=0),
    "a row of an unknown kind": received(1, kind="gossip"),
    "a row of nobody": received(1, device="nobody"),
    "a window that is not in the ledger": window(5),
    "an event that is not in the ledger": DeviceEvent(
        device="d1", boot_epoch="e1", seq=5, code="c", text="t", level="info", at=NOW,
        received_at=NOW,
    ),
    "a report that is not in the ledger": Report(
        device="d1", boot_epoch="e1", seq=5, model="m", release="m@1", sha256="a1", state="idle",
        terminal=False, progress=0, at=NOW, received_at=NOW,
    ),
    "a drift verdict of nobody": DriftState(
        device="nobody", model="m", sha256="a1", changed=False, harmful=False, score=0, feature="",
        samples=1, windows=1, since=NOW, updated_at=NOW,
    ),
    "an unknown role": Token(
        id="t", name="n", role="god", token_sha256="x", created_at=NOW, created_by="x"
    ),
    "a session that has expired at birth": LoginSession(
        cookie_sha256="c", token="t", csrf="x", created_at=NOW, expires_at=NOW
    ),
    "an unknown repository": TrustFile(repository="attic", name="n", data=b"", updated_at=NOW),
    "an audit entry numbered zero": AuditEntry(
        number=0, at=NOW, actor="x", action="y", subject="z", details="{}", previous_hash="p", hash="h"
    ),
    "a trial that runs without an assignment": trial("t2", state="running"),
    "a trial that is proven by nothing": trial(
        "t2", state="proven", counter=1, report=b"", finished_at=NOW
    ),
    "an open trial with an end": trial("t2", finished_at=NOW),
    "a trial on nobody": trial("t2", device="nobody"),
    "a candidate of another device": DesiredModel(
        device="d1", model="m", release="m@2-candidate.x", artifact="a1", updated_at=NOW
    ),
    "a step of no rollout": RolloutStep(rollout="gone", number=1, at=NOW, code="c", text="t"),
}  # fmt: skip


@pytest.fixture
def session(lasting: Engine) -> Iterator[Session]:
    with registry.writing(lasting) as made:
        populate(made)
        yield made
        made.rollback()


def test_the_rows_of_these_tests_are_legal(session: Session) -> None:
    session.add(received(5))
    session.flush()
    session.add(window(5))
    session.flush()


@pytest.mark.parametrize("what", ILLEGAL)
def test_the_database_refuses(session: Session, what: str) -> None:
    session.add(type(ILLEGAL[what])(**ILLEGAL[what].model_dump()))
    with pytest.raises(IntegrityError):
        session.flush()
