"""The audit log: written with the act, and whatever is changed in it is seen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.clouds import Cloud

from cloud.audit import chain, log
from cloud.audit.chain import Verdict
from cloud.services import enrolment
from fleet.registry.repositories import Audit
from fleet.registry.tables import AuditEntry

FIELDS = ("at", "actor", "action", "subject", "details", "previous_hash", "hash", "number")


def write(cloud: Cloud, count: int = 5) -> int:
    for number in range(count):
        with cloud.context.unit() as unit:
            log.record(unit, actor="ann", action="test.act", subject=str(number), n=number, ü="ß")
    return entries(cloud).entries


def entries(cloud: Cloud) -> Verdict:
    with cloud.context.read() as session:
        return chain.verify(Audit(session).all())


def tamper(cloud: Cloud, statement: str) -> None:
    with cloud.context.unit() as unit:
        unit.session.connection().execute(text(statement))


def test_an_honest_log_is_intact(cloud: Cloud) -> None:
    count = write(cloud)
    found = entries(cloud)
    assert (found.intact, found.entries, found.broken_at) == (True, count, 0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor = 'bob' WHERE number = 4",
        "UPDATE audit_entry SET at = at + 0.001 WHERE number = 4",
        "UPDATE audit_entry SET details = '{}' WHERE number = 4",
        "DELETE FROM audit_entry WHERE number = 4",
        "UPDATE audit_entry SET previous_hash = 'x' WHERE number = 4",
        "UPDATE audit_entry SET hash = 'x' WHERE number = 4",
    ],
)
def test_whatever_is_changed_is_seen_where_it_was_changed(cloud: Cloud, statement: str) -> None:
    write(cloud)
    tamper(cloud, statement)
    assert (entries(cloud).intact, entries(cloud).broken_at) == (False, 4)


def test_an_act_that_fails_leaves_no_entry(cloud: Cloud) -> None:
    before = entries(cloud).entries
    with pytest.raises(ZeroDivisionError), cloud.context.unit() as unit:
        log.record(unit, actor="ann", action="test.act", subject=str(1 // 0))
    assert entries(cloud).entries == before


def test_acts_write_entries(cloud: Cloud) -> None:
    cloud.release()
    with cloud.context.unit() as unit:
        enrolment.create_claim(
            unit, device="cam-1", tenant="default", labels={}, expires_s=60, actor="op",
            ids=cloud.context.ids,
        )  # fmt: skip
    with cloud.context.read() as session:
        actions = [entry.action for entry in Audit(session).all()]
    assert actions == [
        "trust.create",
        "trust.create",
        "trust.sign",
        "release.create",
        "device.claim",
    ]


values = st.text(max_size=20) | st.integers() | st.booleans() | st.none()


@settings(max_examples=200, deadline=None)
@given(
    at=st.floats(0, 4e9),
    texts=st.lists(st.text(max_size=20), min_size=3, max_size=3),
    field=st.sampled_from(FIELDS[:-2]),
    other=values,
)
def test_the_hash_covers_every_field(at: float, texts: list[str], field: str, other: Any) -> None:
    fields = {
        "number": 7, "at": at, "actor": texts[0], "action": texts[1], "subject": texts[2],
        "details": "{}", "previous_hash": "p", "hash": "",
    }  # fmt: skip
    entry, changed = AuditEntry(**fields), AuditEntry(**(fields | {field: other}))
    same = fields[field] == other and type(fields[field]) is type(other)
    assert (chain.hash_of(entry) == chain.hash_of(changed)) == same
