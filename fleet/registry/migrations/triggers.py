"""Triggers that refuse what the machines' tables do not list, in the words of each database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alembic import op

Legal = Mapping[str, Iterable[str]]
"""State before to the states after; the transitive closure where a step may pass several states."""


def refuse_transitions(table: str, legal: Legal) -> None:
    """Let `table` refuse a change of its column `state` that is not among `legal`."""
    listed = ", ".join(f"'{old}>{new}'" for old, news in legal.items() for new in news)
    moved = f"OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN ({listed})"
    refuse(f"{table}_transition", table, "UPDATE OF state", moved, f"{table}: illegal transition")


def refuse(name: str, table: str, when: str, condition: str, message: str) -> None:
    """Refuse rows.

    Args:
        name: of the trigger.
        table: whose rows.
        when: ``INSERT``, or ``UPDATE OF column``.
        condition: SQL over ``OLD`` and ``NEW`` that holds for what is refused.
        message: what the error says.
    """
    if op.get_bind().dialect.name != "postgresql":
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {when} ON {table} WHEN {condition} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {condition} THEN RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; END IF; "
        f"RETURN NEW; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
    )


def drop(name: str, table: str) -> None:
    """Drop a trigger that `refuse` made."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(f"DROP TRIGGER {name}" + (f" ON {table}" if postgresql else ""))
    if postgresql:
        op.execute(f"DROP FUNCTION {name}()")
