"""Refuse illegal transitions: what the machines' tables do not let through, the database does not either.

Rules:
- A step of a machine may pass through several states, so the pairs here are the transitive closure of
  its table; a test compares them.
- SQLite forgets a table's triggers when a later migration rebuilds the table: make them again there.
"""

from __future__ import annotations

from fleet.registry.migrations import triggers

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
        triggers.refuse_transitions(table, pairs)


def downgrade() -> None:
    """Drop the triggers."""
    for table in LEGAL:
        triggers.drop(f"{table}_transition", table)
