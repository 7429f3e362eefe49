"""Create rebuild campaigns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fleet.registry.migrations import triggers

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LEGAL: dict[str, tuple[str, ...]] = {
    "noticed": ("open", "started", "dismissed", "gone"),
    "open": ("noticed", "started", "dismissed", "gone"),
    "gone": ("noticed", "open", "started", "dismissed"),
}


def upgrade() -> None:
    """Create the table and its trigger."""
    op.create_table(
        "campaign",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("hardware_class", sa.String(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.JSON(), nullable=False),
        sa.Column("noticed_at", sa.Float(), nullable=False),
        sa.Column("raised_at", sa.Float(), nullable=True),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.CheckConstraint(
            "state IN ('noticed', 'open', 'started', 'dismissed', 'gone')",
            name=op.f("ck_campaign_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('started', 'dismissed')) = (decided_at IS NOT NULL)",
            name=op.f("ck_campaign_decided"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
        sa.UniqueConstraint(
            "hardware_class",
            "runtime",
            "version",
            name=op.f("uq_campaign_hardware_class_runtime_version"),
        ),
    )
    op.create_index(op.f("ix_campaign_state"), "campaign", ["state"], unique=False)
    triggers.refuse_transitions("campaign", LEGAL)


def downgrade() -> None:
    """Drop the table and its trigger."""
    triggers.drop("campaign_transition", "campaign")
    op.drop_table("campaign")
