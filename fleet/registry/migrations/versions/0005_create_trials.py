"""Create trials of artifacts on proving devices, candidates and fallbacks.

Rules:
- What is desired of a device is never a candidate that another device is to prove.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from fleet.registry.migrations import triggers

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LEGAL: dict[str, dict[str, tuple[str, ...]]] = {
    "trial": {
        "queued": ("running", "proven", "refused", "cancelled", "expired"),
        "running": ("proven", "refused", "cancelled", "expired"),
    },
}

_STRANGE = (
    "EXISTS (SELECT 1 FROM release WHERE release.id = NEW.release"
    " AND release.candidate_for NOT IN ('', NEW.device))"
)


def upgrade() -> None:
    """Add the columns, the table and what the database refuses."""
    for table, column in _columns():
        op.add_column(table, column)
    op.create_index("ix_report_sha256_state", "report", ["sha256", "state"], unique=False)
    with op.batch_alter_table("release_variant", recreate="auto") as batch:
        batch.add_column(sa.Column("variant", sa.String(), nullable=False, server_default=""))
        batch.drop_constraint("pk_release_variant", type_="primary")
        batch.create_primary_key("pk_release_variant", ["release", "target", "variant"])
    _create_trial()
    triggers.refuse_transitions("trial", LEGAL["trial"])
    for when in ("INSERT", "UPDATE OF release"):
        name = f"desired_model_candidate_{when.split()[0].lower()}"
        triggers.refuse(name, "desired_model", when, _STRANGE, "desired_model: not for this device")


def downgrade() -> None:
    """Take all of it back; fallbacks leave the releases that they are part of."""
    for when in ("insert", "update"):
        triggers.drop(f"desired_model_candidate_{when}", "desired_model")
    triggers.drop("trial_transition", "trial")
    op.drop_table("trial")
    op.execute("DELETE FROM release_variant WHERE variant <> ''")
    with op.batch_alter_table("release_variant", recreate="auto") as batch:
        batch.drop_constraint("pk_release_variant", type_="primary")
        batch.create_primary_key("pk_release_variant", ["release", "target"])
        batch.drop_column("variant")
    op.drop_index("ix_report_sha256_state", "report")
    for table, column in reversed(_columns()):
        op.drop_column(table, column.name)


def _columns() -> list[tuple[str, sa.Column[Any]]]:
    return [
        ("device", sa.Column("proving_class", sa.String(), nullable=False, server_default="")),
        (
            "artifact",
            sa.Column("fallback", sa.Boolean(), nullable=False, server_default=sa.false()),
        ),
        ("artifact", sa.Column("proved_by", sa.String(), nullable=False, server_default="")),
        ("artifact", sa.Column("proved_at", sa.Float(), nullable=True)),
        ("artifact", sa.Column("trial", sa.String(), nullable=False, server_default="")),
        ("release", sa.Column("candidate_for", sa.String(), nullable=False, server_default="")),
        ("report", sa.Column("facts", sa.JSON(), nullable=False, server_default="{}")),
    ]


def _create_trial() -> None:
    op.create_table(
        "trial",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("hardware_class", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=True),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("previous_release", sa.String(), nullable=False),
        sa.Column("previous_artifact", sa.String(), nullable=True),
        sa.Column("previous_rollout", sa.String(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("attested_by", sa.JSON(), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.Column("report_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'proven', 'refused', 'cancelled', 'expired')",
            name=op.f("ck_trial_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('queued', 'running')) = (finished_at IS NULL)",
            name=op.f("ck_trial_finished"),
        ),
        sa.CheckConstraint(
            "state <> 'running' OR counter > 0", name=op.f("ck_trial_assigned_by_a_counter")
        ),
        sa.CheckConstraint(
            "state <> 'proven' OR length(report) > 0", name=op.f("ck_trial_proven_by_a_report")
        ),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifact.sha256"], name=op.f("fk_trial_artifact_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["previous_artifact"],
            ["artifact.sha256"],
            name=op.f("fk_trial_previous_artifact_artifact"),
        ),
        sa.ForeignKeyConstraint(
            ["previous_rollout"], ["rollout.id"], name=op.f("fk_trial_previous_rollout_rollout")
        ),
        sa.ForeignKeyConstraint(["device"], ["device.id"], name=op.f("fk_trial_device_device")),
        sa.ForeignKeyConstraint(["release"], ["release.id"], name=op.f("fk_trial_release_release")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trial")),
    )
    for column in ("artifact", "device", "model"):
        op.create_index(op.f(f"ix_trial_{column}"), "trial", [column], unique=False)
    for name, column, states in (
        ("ix_trial_running", "device", "state = 'running'"),
        ("ix_trial_open", "artifact", "state IN ('queued', 'running')"),
    ):
        where = sa.text(states)
        op.create_index(
            name, "trial", [column], unique=True, sqlite_where=where, postgresql_where=where
        )
