"""`outrider audit` against a running cloud: whole, exported, rewritten, cut off."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import TextClause, text
from support.clouds import Cloud
from support.commands import Run

from cloud.audit import checkpoints, log


def tamper(cloud: Cloud, statement: TextClause) -> None:
    with cloud.context.unit() as unit:
        unit.session.connection().execute(statement)


def write(cloud: Cloud) -> None:
    for number in range(5):
        with cloud.context.unit() as unit:
            log.record(unit, actor="ann", action="test.act", subject=str(number))
    assert checkpoints.make(cloud.context)


def test_a_whole_log_is_verified_and_exported(cloud: Cloud, run: Run, tmp_path: Path) -> None:
    write(cloud)
    found = run("audit", "verify", "--json").document
    assert (found["intact"], found["signed"]) == (True, found["entries"])
    file = tmp_path / "log.jsonl"
    assert run("audit", "export", str(file)).code == 0
    assert run("audit", "verify", str(file)).code == 0


def test_a_rewritten_entry_is_named(cloud: Cloud, run: Run) -> None:
    write(cloud)
    tamper(cloud, text("UPDATE audit_entry SET actor = 'bob' WHERE number = 4"))
    done = run("audit", "verify")
    assert done.code == 1
    assert "BROKEN at entry 4" in done.out


def test_a_log_that_is_cut_off_with_its_checkpoints_is_found(cloud: Cloud, run: Run) -> None:
    write(cloud)
    write(cloud)
    with cloud.context.read() as session:
        newest = checkpoints.verify_all(session, cloud.context.settings).entries
    for table in ("audit_entry", "audit_checkpoint"):
        tamper(cloud, text(f"DELETE FROM {table} WHERE number > :last").bindparams(last=newest - 5))  # noqa: S608  two names of ours
    done = run("audit", "verify")
    assert done.code == 1
    assert f"BROKEN at entry {newest - 4}" in done.out
