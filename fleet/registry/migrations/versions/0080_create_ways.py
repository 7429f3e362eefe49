"""Create ways of sending less than a whole artifact."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0080"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "way",
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("length_bytes", sa.BigInteger(), nullable=False),
        sa.Column("blocks_sha256", sa.String(), nullable=False),
        sa.Column("blocks_length_bytes", sa.BigInteger(), nullable=False),
        sa.Column("block_size_bytes", sa.Integer(), nullable=False),
        sa.Column("cost_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint("kind IN ('delta', 'chunks')", name=op.f("ck_way_kind")),
        sa.CheckConstraint("cost_bytes > 0", name=op.f("ck_way_cost_positive")),
        sa.ForeignKeyConstraint(
            ["result"], ["artifact.sha256"], name=op.f("fk_way_result_artifact")
        ),
        sa.PrimaryKeyConstraint("result", "base", "kind", name=op.f("pk_way")),
    )
    for column in ("sha256", "blocks_sha256"):
        op.create_index(op.f(f"ix_way_{column}"), "way", [column], unique=False)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("way")
