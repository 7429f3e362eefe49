"""Signed checkpoints: what is rewritten, cut off or forged is found, in the registry and in an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.clouds import Cloud

from cloud.audit import chain, checkpoints, export, log
from cloud.audit.chain import Verdict
from cloud.cli.audit import command
from cloud.services import key_changes
from fleet.registry.repositories import Audit
from ota.signing import key_files, keys


def write(cloud: Cloud, count: int = 3) -> None:
    for number in range(count):
        with cloud.context.unit() as unit:
            log.record(unit, actor="ann", action="test.act", subject=str(number))
    cloud.clock.now += 60
    assert checkpoints.make(cloud.context)


def whole(cloud: Cloud) -> Verdict:
    with cloud.context.read() as session:
        return checkpoints.verify_all(session, cloud.context.settings)


def tail(cloud: Cloud) -> Verdict:
    with cloud.context.read() as session:
        return checkpoints.verify_tail(session, cloud.context.settings)


def tamper(cloud: Cloud, *statements: str) -> None:
    with cloud.context.unit() as unit:
        for statement in statements:
            unit.session.connection().execute(text(statement))


def exported(cloud: Cloud, path: Path) -> Path:
    with cloud.context.read() as session:
        lines = export.lines(session, cloud.context.settings, now=cloud.clock.now)
        path.write_text("".join(lines))
    return path


def rewrite(cloud: Cloud, number: int) -> None:
    """Change an entry, and every hash after it, as a careful forger does."""
    with cloud.context.unit() as unit:
        previous = ""
        for entry in Audit(unit.session).all(above=number - 1):
            if entry.number == number:
                entry.actor = "nobody"
            else:
                entry.previous_hash = previous
            previous = entry.hash = chain.hash_of(entry)
            unit.session.add(entry)


def test_a_log_is_signed_up_to_its_head_and_once(cloud: Cloud) -> None:
    write(cloud)
    for found in (whole(cloud), tail(cloud)):
        assert (found.intact, found.entries, found.signed) == (True, 5, 5)
    assert not checkpoints.make(cloud.context)
    with cloud.context.unit() as unit:
        log.record(unit, actor="ann", action="test.act", subject="late")
    assert (whole(cloud).entries, whole(cloud).signed) == (6, 5)


def test_rewriting_with_new_hashes_is_found(cloud: Cloud) -> None:
    write(cloud)
    write(cloud)
    rewrite(cloud, 4)
    found = whole(cloud)
    assert (found.intact, found.broken_at) == (False, 5)
    assert "rewritten" in found.reason
    assert not tail(cloud).intact


CUT = "DELETE FROM audit_entry WHERE number > 5"


@pytest.mark.parametrize(
    ("statements", "broken_at"),
    [
        ((CUT,), 6),
        ((CUT, "DELETE FROM audit_checkpoint WHERE serial > 1"), 6),
        ((CUT, "DELETE FROM audit_checkpoint"), 6),
        (("DELETE FROM audit_checkpoint WHERE serial = 1",), 8),
        (("UPDATE audit_checkpoint SET signature = '00' WHERE serial = 1",), 5),
        (("UPDATE audit_checkpoint SET at = at + 1 WHERE serial = 1",), 5),
        (("UPDATE audit_checkpoint SET keyid = 'x' WHERE serial = 2",), 8),
        (("UPDATE audit_checkpoint SET number = 4 WHERE serial = 2",), 4),
    ],
)
def test_what_is_cut_off_or_forged_is_found(cloud: Cloud, statements, broken_at: int) -> None:
    write(cloud)
    write(cloud)
    tamper(cloud, *statements)
    found = whole(cloud)
    if "serial = 1" in statements[0] and "DELETE" in statements[0]:
        assert found.intact  # the later checkpoint covers what the earlier one did
        return
    assert (found.intact, found.broken_at) == (False, broken_at)
    assert found.reason


def test_nothing_is_signed_over_a_log_that_was_cut(cloud: Cloud) -> None:
    write(cloud)
    write(cloud)
    tamper(cloud, CUT, "DELETE FROM audit_checkpoint WHERE serial > 1")
    with cloud.context.unit() as unit:
        log.record(unit, actor="mallory", action="test.act", subject="over it")
    assert not checkpoints.make(cloud.context)
    assert not tail(cloud).intact
    assert not whole(cloud).intact
    key_changes.restore(cloud.context, [], by="host:test")
    assert whole(cloud).intact
    with cloud.context.read() as session:
        said = next(e for e in Audit(session).all() if e.action == "registry.restore")
    assert json.loads(said.details)["lost_number"] == 8


def test_the_page_reads_no_entry_before_the_newest_checkpoint_but_one(
    cloud: Cloud, monkeypatch
) -> None:
    write(cloud, 50)
    looked: list[int] = []
    real = chain.hash_of

    def counted(entry):
        looked.append(entry.number)
        return real(entry)

    monkeypatch.setattr(chain, "hash_of", counted)
    with cloud.context.unit() as unit:
        log.record(unit, actor="ann", action="test.act", subject="late")
    looked.clear()
    assert tail(cloud).intact
    assert looked == [52, 53]


def test_a_new_audit_key_is_handed_over_to(cloud: Cloud, tmp_path: Path) -> None:
    write(cloud)
    old = keys.audit_signer(cloud.folder).public_key
    key_changes.rotate_at_once(cloud.context, "audit", by="host:test")
    write(cloud)
    new = keys.audit_signer(cloud.folder).public_key
    assert new.keyid != old.keyid
    path = exported(cloud, tmp_path / "log")
    for key in (old, new):
        with path.open("rb") as file:
            found = chain.verify(export.read(file).records, key=key)
        assert (found.intact, found.signed) == (True, found.entries)


# --- exports ----------------------------------------------------------------------------------------


def verify(*arguments: str) -> tuple[int, dict]:
    done = CliRunner().invoke(command, ["verify", "--json", *arguments])
    return done.exit_code, json.loads(done.stdout)


def test_an_export_verifies_offline_with_a_pinned_key(cloud: Cloud, tmp_path: Path) -> None:
    write(cloud)
    path = str(exported(cloud, tmp_path / "log"))
    pin = tmp_path / "audit.pub"
    key_files.write_public(pin, keys.audit_signer(cloud.folder).public_key)
    status, found = verify(path, "--key", str(pin))
    assert (status, found["intact"], found["signed"], found["key_pinned"]) == (0, True, 5, True)
    status, found = verify(path)
    assert (status, found["key_pinned"]) == (0, False)


def test_an_export_that_was_changed_names_the_first_bad_entry(cloud: Cloud, tmp_path: Path) -> None:
    write(cloud)
    path = exported(cloud, tmp_path / "log")
    lines = path.read_text().splitlines(keepends=True)
    changed = lines.copy()
    changed[3] = changed[3].replace('"ann"', '"bob"')
    assert changed != lines
    for name, content, at in (
        ("changed", changed, 3),
        ("dropped", lines[:2] + lines[3:], 2),
        ("cut", lines[:4], 4),
        ("cut with its end", [*lines[:4], '{"end":{"entries":3}}\n'], 0),
        ("mangled", [*lines[:2], "junk\n", *lines[3:]], 2),
    ):
        path.write_text("".join(content))
        status, found = verify(str(path), "--against", str(cloud.folder / "audit/checkpoint.json"))
        assert (status, found["intact"]) == (1, False), name
        assert found["broken_at"] == (at or 4), name


def test_a_log_that_a_thief_signed_is_refused_by_the_pinned_key(
    cloud: Cloud, tmp_path: Path
) -> None:
    """Whoever has the registry but not the key signs a log of his own with another key."""
    pin = tmp_path / "audit.pub"
    key_files.write_public(pin, keys.audit_signer(cloud.folder).public_key)
    for path in (cloud.folder / "keys").glob("audit*"):
        path.unlink()
    keys.create_key(cloud.folder, keys.Role.AUDIT)
    write(cloud)
    status, found = verify(str(exported(cloud, tmp_path / "log")), "--key", str(pin))
    assert (status, found["broken_at"]) == (1, 1)
    assert "trusted key" in found["reason"]


def test_a_later_export_must_contain_an_earlier_one(cloud: Cloud, tmp_path: Path) -> None:
    write(cloud)
    earlier = exported(cloud, tmp_path / "earlier")
    write(cloud)
    later = exported(cloud, tmp_path / "later")
    assert verify(str(later), "--against", str(earlier))[0] == 0
    status, found = verify(str(earlier), "--against", str(later))
    assert (status, found["broken_at"]) == (1, 6)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_changed_byte_of_an_export_goes_unseen(cloud: Cloud, tmp_path: Path, data) -> None:
    path = tmp_path / "log"
    if not path.exists():
        write(cloud)
        exported(cloud, path)
    good = path.read_bytes()
    start = good.index(b"\n") + 1
    end = good.rindex(b'{"end"')
    at = data.draw(st.integers(start, end - 1))
    byte = data.draw(st.integers(0, 255))
    mangled = good[:at] + bytes([byte]) + good[at + 1 :]
    read = export.read(mangled.splitlines(keepends=True))
    found = chain.verify(read.records, key=read.key)
    assert found.intact == _says_the_same(good, mangled), mangled[at - 20 : at + 20]


def _says_the_same(one: bytes, other: bytes) -> bool:
    try:
        return [json.loads(x) for x in one.splitlines()] == [
            json.loads(x) for x in other.splitlines()
        ]
    except ValueError:
        return False
