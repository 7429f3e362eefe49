"""Create the audit log's checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0050"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "audit_checkpoint",
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("head", sa.String(), nullable=False),
        sa.Column("next_key", sa.String(), nullable=False),
        sa.Column("keyid", sa.String(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.CheckConstraint("serial > 0 AND number > 0", name=op.f("ck_audit_checkpoint_counted")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_audit_checkpoint")),
    )
    op.create_index(
        op.f("ix_audit_checkpoint_number"), "audit_checkpoint", ["number"], unique=False
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("audit_checkpoint")
