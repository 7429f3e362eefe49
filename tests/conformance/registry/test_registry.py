"""What the registry promises, on each database that it runs on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError
from support.registry_rows import BIG, NOW, device, job, populate, received, window

from fleet.registry import engine as registry
from fleet.registry import tables
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import (
    Access,
    Audit,
    Devices,
    Models,
    Rollouts,
    Telemetry,
    Trust,
    Work,
)
from fleet.registry.tables import Assignment, AuditEntry, ModelVersion, Token, WorkAttempt, WorkUnit


def test_migrating_gives_exactly_the_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}),
            tables.Row.metadata,
        )
        found = set(inspect(connection).get_table_names())
    assert differences == []
    assert found == {*tables.Row.metadata.tables, "alembic_version"}


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
    registry.migrate(engine)
    with registry.reading(engine) as session:
        assert Devices(session).get("d1").tenant == "default"


def test_what_is_written_survives_a_new_connection(url: str, engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
        session.add(device("d2", labels={"site": "north"}, assignment_counter=BIG, online=True))
        session.add(received(1))
        session.flush()
        session.add(window(1))
    engine.dispose()
    again = registry.connect(url)
    try:
        with registry.reading(again) as session:
            found = Devices(session).get("d2")
            assert (found.labels, found.assignment_counter) == ({"site": "north"}, BIG)
            assert Telemetry(session).windows("d1")[0].window == b"\x00\xff"
            assert Models(session).variants("m@1")[0][1].size_bytes == BIG
    finally:
        again.dispose()


def test_a_unit_that_is_rolled_back_leaves_nothing(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
        session.rollback()
    with registry.reading(engine) as session:
        assert Devices(session).all() == []


def test_a_reading_session_keeps_nothing(engine: Engine) -> None:
    with registry.reading(engine) as session:
        session.add(device())
        session.flush()
    with registry.reading(engine) as session:
        assert Devices(session).all() == []


def test_the_same_row_is_received_once(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
        telemetry = Telemetry(session)
        assert telemetry.first_time(received(7)) is True
        assert telemetry.first_time(received(7, kind="event")) is False
        assert telemetry.first_time(received(7, boot_epoch="e2")) is True


def test_gaps_are_counted_per_boot_epoch(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
        for seq in (1, 2, 5):
            session.add(received(seq))
        session.add(received(2, boot_epoch="e2", received_at=NOW + 1))
        session.add(received(3, boot_epoch="e3", covers=3, received_at=NOW + 2))
    with registry.reading(engine) as session:
        found = {r.boot_epoch: r for r in Telemetry(session).receptions("d1")}
    assert (found["e1"].last, found["e1"].rows, found["e1"].missing) == (5, 3, 2)
    assert found["e2"].missing == 1, "the first row of an epoch has number 1"
    assert found["e3"].missing == 0, "a merged window stands for those it was merged from"


def test_totals_and_newest_windows(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
        for seq in (1, 2, 3):
            session.add(received(seq))
        session.flush()
        for seq in (1, 2, 3):
            session.add(window(seq))
    with registry.reading(engine) as session:
        telemetry = Telemetry(session)
        assert telemetry.totals() == {("d1", "m"): (30, 3)}
        assert [row.seq for row in telemetry.newest_windows(["d1"])] == [3]
        assert [row.seq for row in telemetry.windows("d1", sha256="a1", limit=2)] == [3, 2]
        assert telemetry.counts() == {"telemetry": 3}


def test_units_of_work_are_listed_oldest_first_with_their_attempts(engine: Engine) -> None:
    def unit(name: str, **changes: Any) -> WorkUnit:
        fields = {"id": name, "job": "j", "position": 0, "toolchain": "onnx", "created_at": NOW}
        return WorkUnit(**(fields | changes))

    with registry.writing(engine) as session:
        session.add(job())
        session.flush()
        work = Work(session)
        work.add(unit("late", created_at=NOW + 1, position=1))
        work.add(unit("early"))
        work.add(unit("over", state="done", finished_at=NOW, position=2))
        for number in (2, 1):
            fields = {"worker": "w", "session": "s", "started_at": NOW, "heard_at": NOW}
            work.add(WorkAttempt(unit="early", number=number, **fields))
    with registry.reading(engine) as session:
        work = Work(session)
        assert [row.id for row in work.open_units()] == ["early", "late"]
        assert [row.id for row in work.units("j")] == ["early", "late", "over"]
        assert [row.number for row in work.attempts("early", "late")] == [1, 2]
        newest = work.newest_attempt("early")
        assert newest is not None
        assert newest.number == 2
        assert work.find_worker("nobody") is None


def test_tokens_and_sessions_survive_the_change_of_roles(url: str) -> None:
    """SQLite makes the table of tokens anew; what refers to it must find it again."""
    made = registry.connect(url)
    config = Config()
    config.set_main_option("script_location", "fleet.registry:migrations")
    try:
        with made.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0004")
            connection.execute(
                text(
                    "INSERT INTO token (id, name, role, token_sha256, created_at, created_by) "
                    "VALUES ('t', 'n', 'admin', 'd', 1, 'x')"
                )
            )
            connection.execute(text("INSERT INTO login_session VALUES ('c', 't', 's', 1, 2)"))
        registry.migrate(made)
        with registry.writing(made) as session:
            found = Access(session).login_session("c")
            assert found is not None
            assert Access(session).token(found.token).name == "n"
            fields = {"token_sha256": "e", "created_at": NOW, "created_by": "x"}
            Access(session).add(Token(id="w", name="w", role="worker", **fields))
        with pytest.raises(IntegrityError), made.begin() as connection:
            connection.execute(text("DELETE FROM token WHERE id = 't'"))
    finally:
        made.dispose()


def test_versions_are_told_apart_by_content(engine: Engine) -> None:
    def version(number: int, content: str) -> ModelVersion:
        return ModelVersion(
            model="m", version=str(number), number=number, folder_sha256=content,
            archive_sha256="z", created_at=NOW, created_by="x",
        )  # fmt: skip

    with registry.writing(engine) as session:
        session.add(version(1, "c1"))
        session.add(version(10, "c2"))
    with registry.reading(engine) as session:
        models = Models(session)
        assert models.highest_number("m") == 10
        assert [row.version for row in models.versions("m")] == ["1", "10"]
        found = models.version_by_content("m", "c1")
        assert found is not None
        assert found.version == "1"
    with pytest.raises(IntegrityError), registry.writing(engine) as session:
        session.add(version(11, "c1"))


def test_what_is_not_there_is_an_error_of_ours(engine: Engine) -> None:
    with registry.reading(engine) as session:
        for ask in (
            lambda: Devices(session).get("x"),
            lambda: Models(session).version("x", "1"),
            lambda: Models(session).job("x"),
            lambda: Models(session).release("x@1"),
            lambda: Rollouts(session).get("x"),
            lambda: Access(session).token("x"),
        ):
            with pytest.raises(NotFoundError, match=r"found '?x"):
                ask()


def test_the_newest_assignment_has_the_highest_counter(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)
        trust = Trust(session)
        for counter in (9, 10):
            trust.add_assignment(
                Assignment(
                    device="d1", counter=counter, document=b"x", created_at=NOW, expires_at=NOW
                )
            )
    with registry.reading(engine) as session:
        newest = Trust(session).newest_assignment("d1")
        assert newest is not None
        assert newest.counter == 10


def test_writers_wait_for_each_other(engine: Engine) -> None:
    """Sixteen threads append to the audit log at once: nobody fails, no number is lost or doubled."""

    def append(who: int) -> None:
        with registry.writing(engine) as session:
            audit = Audit(session)
            last = audit.last_for_append()
            number = last.number + 1 if last else 1
            fields = {"at": NOW, "actor": str(who), "action": "a", "subject": "s", "details": "{}"}
            chained = {"previous_hash": str(number - 1), "hash": str(number)}
            audit.append(AuditEntry(number=number, **fields, **chained))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(append, range(16)))
    with registry.reading(engine) as session:
        assert [entry.number for entry in Audit(session).all()] == list(range(1, 17))


def test_a_rollout_is_stepped_by_one_at_a_time(engine: Engine) -> None:
    with registry.writing(engine) as session:
        populate(session)

    def step(_: int) -> None:
        with registry.writing(engine) as session:
            row = Rollouts(session).get_for_update("r1")
            row.revision += 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(step, range(12)))
    with registry.reading(engine) as session:
        assert Rollouts(session).get("r1").revision == 12
