"""Refuse illegal transitions: what the machines' tables do not let through, the database does not either.

Rules:
- A step of a machine may pass through several states, so the pairs here are the transitive closure of
  its table; a test compares them.
- SQLite forgets a table's triggers when a later migration rebuilds the table: make them again there.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ROLLED = ("aborted", "paused", "rolled_back", "running", "succeeded")
_MOVED = ("committed", "failed", "incompatible", "restored")

LEGAL: dict[str, dict[str, tuple[str, ...]]] = {
    "rollout": {
        "draft": ("awaiting_approval", "scheduled", *_ROLLED),
        "awaiting_approval": ("scheduled", *_ROLLED),
        "scheduled": _ROLLED,
        "running": ("aborted", "paused", "rolled_back", "succeeded"),
        "paused": ("aborted", "rolled_back", "running", "succeeded"),
        "succeeded": ("rolled_back",),
        "aborted": ("rolled_back",),
    },
    "rollout_device": {
        "pending": ("assigned", "stale", *_MOVED),
        "assigned": ("stale", *_MOVED),
        "stale": _MOVED,
        "committed": ("restored",),
        "failed": ("restored",),
    },
    "job": {
        "queued": ("running",),
        "running": ("queued", "done", "failed"),
    },
}


def upgrade() -> None:
    """Create a trigger per table."""
    for table, pairs in LEGAL.items():
        listed = ", ".join(f"'{old}>{new}'" for old, news in pairs.items() for new in news)
        moved = f"OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN ({listed})"
        for statement in _statements(table, moved):
            op.execute(statement)


def downgrade() -> None:
    """Drop the triggers."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table in LEGAL:
        op.execute(f"DROP TRIGGER {table}_transition" + (f" ON {table}" if postgresql else ""))
        if postgresql:
            op.execute(f"DROP FUNCTION {table}_transition()")


def _statements(table: str, moved: str) -> list[str]:
    message = f"{table}: illegal transition"
    if op.get_bind().dialect.name != "postgresql":
        return [
            (
                f"CREATE TRIGGER {table}_transition BEFORE UPDATE OF state ON {table} WHEN {moved} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        ]
    return [
        (
            f"CREATE FUNCTION {table}_transition() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; END $$"
        ),
        (
            f"CREATE TRIGGER {table}_transition BEFORE UPDATE OF state ON {table} FOR EACH ROW "
            f"WHEN ({moved}) EXECUTE FUNCTION {table}_transition()"
        ),
    ]
