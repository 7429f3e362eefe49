"""The database lets through exactly what the machines' tables let through."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session
from support.registry_rows import NOW, job, populate, rollout, trial

from cloud.work.states import JOB, UNIT
from fleet.registry import engine as registry
from fleet.registry.tables import Campaign, EngineBuild, RolloutDevice, WorkUnit
from fleet.registry.tables.campaigns import CAMPAIGN_STATES
from fleet.registry.tables.engines import ENGINE_STATES
from fleet.registry.tables.models import JOB_STATES
from fleet.registry.tables.proving import TRIAL_STATES
from fleet.registry.tables.rollouts import MEMBER_STATES, ROLLOUT_STATES
from fleet.registry.tables.work import UNIT_STATES
from ota.proving.campaign import CAMPAIGN
from ota.proving.engine import ENGINE
from ota.proving.trial import TRIAL
from ota.rollout.tables import DEVICE, ROLLOUT


def closure(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    while True:
        more = pairs | {(a, d) for (a, b), (c, d) in itertools.product(pairs, pairs) if b == c}
        if more == pairs:
            return {(a, b) for a, b in pairs if a != b}
        pairs = more


def values(pairs: frozenset[tuple[Enum, Enum]]) -> set[tuple[str, str]]:
    return {(str(old.value), str(new.value)) for old, new in pairs}


def member(state: str) -> RolloutDevice:
    return RolloutDevice(
        rollout="r1", device="d1", position=0, state=state, artifact="a1", counter=1, updated_at=NOW
    )


def a_job(state: str) -> Any:
    return job(id="j2", state=state, finished_at=ended(state))


def unit(state: str) -> WorkUnit:
    return WorkUnit(
        id="u1", job="j", position=0, toolchain="onnx", targets=["onnx-cpu"], state=state,
        created_at=NOW, finished_at=ended(state),
    )  # fmt: skip


def ended(state: str) -> float | None:
    return None if state in {"queued", "running", "ordered", "receiving"} else NOW


def a_trial(state: str) -> Any:
    return trial("t2", state=state, counter=1, report=b"x", finished_at=ended(state))


def a_campaign(state: str) -> Any:
    decided = NOW if state in {"started", "dismissed"} else None
    return Campaign(
        id="c", hardware_class="h", runtime="r", version="1", state=state, noticed_at=NOW, decided_at=decided
    )  # fmt: skip


def an_engine(state: str) -> Any:
    return EngineBuild(
        id="e", artifact="a1", model="m", version="1", target="t", device="d1", hardware_class="h",
        state=state, derived="a1", created_at=NOW, created_by="x", finished_at=ended(state),
    )  # fmt: skip


CASES = {
    "rollout": (ROLLOUT_STATES, closure(values(ROLLOUT.pairs())), lambda s: rollout("r2", state=s)),
    "member": (MEMBER_STATES, closure(values(DEVICE.pairs())), member),
    "job": (JOB_STATES, values(JOB.pairs()), a_job),
    "unit": (UNIT_STATES, values(UNIT.pairs()), unit),
    "campaign": (CAMPAIGN_STATES, closure(values(CAMPAIGN.pairs())), a_campaign),
    "engine": (ENGINE_STATES, closure(values(ENGINE.pairs())), an_engine),
    "trial": (TRIAL_STATES, closure(values(TRIAL.pairs())), a_trial),
}


@pytest.fixture
def session(lasting: Engine) -> Iterator[Session]:
    with registry.writing(lasting) as made:
        populate(made)
        made.add(job())
        made.flush()
        yield made
        made.rollback()


@pytest.mark.parametrize("what", CASES)
def test_exactly_the_listed_transitions_pass(session: Session, what: str) -> None:
    states, legal, make = CASES[what]
    passed, reasons = set(), set()
    for old, new in itertools.permutations(states, 2):
        with session.begin_nested() as savepoint:
            row = make(old)
            session.add(row)
            session.flush()
            row.state = new
            if what == "campaign":
                row.decided_at = NOW if new in {"started", "dismissed"} else None
            if what in {"job", "unit", "trial", "engine"}:
                row.finished_at = ended(new)
            try:
                session.flush()
                passed.add((old, new))
            except IntegrityError as error:
                reasons.add("illegal transition" in str(error))
            savepoint.rollback()
    assert passed == legal
    assert reasons == {True}


def test_every_migration_can_be_undone(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "fleet.registry:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    registry.migrate(engine)
    with registry.writing(engine) as session:
        populate(session)
