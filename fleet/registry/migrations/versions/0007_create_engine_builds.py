"""Create engines that builder devices make for their twins."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from fleet.registry.migrations import triggers

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LEGAL: dict[str, tuple[str, ...]] = {
    "ordered": ("receiving", "built", "refused", "cancelled", "expired"),
    "receiving": ("built", "refused", "cancelled", "expired"),
}


def upgrade() -> None:
    """Add the columns, the table and its trigger."""
    for table, column in _columns():
        op.add_column(table, column)
    _create_engine_build()
    triggers.refuse_transitions("engine_build", LEGAL)


def downgrade() -> None:
    """Take all of it back."""
    triggers.drop("engine_build_transition", "engine_build")
    op.drop_table("engine_build")
    for table, column in reversed(_columns()):
        op.drop_column(table, column.name)


def _columns() -> list[tuple[str, sa.Column[Any]]]:
    return [
        ("device", sa.Column("builder_class", sa.String(), nullable=False, server_default="")),
        ("device", sa.Column("environment", sa.JSON(), nullable=False, server_default="{}")),
        ("artifact", sa.Column("twin", sa.JSON(), nullable=False, server_default="{}")),
        ("artifact", sa.Column("built_from", sa.String(), nullable=False, server_default="")),
        ("artifact", sa.Column("built_by", sa.String(), nullable=False, server_default="")),
    ]


def _create_engine_build() -> None:
    op.create_table(
        "engine_build",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("hardware_class", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("length_bytes", sa.BigInteger(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("bitmap", sa.LargeBinary(), nullable=False),
        sa.Column("offer", sa.LargeBinary(), nullable=False),
        sa.Column("derived", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("heard_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "state IN ('ordered', 'receiving', 'built', 'refused', 'cancelled', 'expired')",
            name=op.f("ck_engine_build_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('ordered', 'receiving')) = (finished_at IS NULL)",
            name=op.f("ck_engine_build_finished"),
        ),
        sa.CheckConstraint(
            "state <> 'built' OR derived IS NOT NULL", name=op.f("ck_engine_build_built_is_there")
        ),
        sa.CheckConstraint("length_bytes >= 0", name=op.f("ck_engine_build_length_not_negative")),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifact.sha256"], name=op.f("fk_engine_build_artifact_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["derived"], ["artifact.sha256"], name=op.f("fk_engine_build_derived_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_engine_build_device_device")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_engine_build")),
    )
    op.create_index(op.f("ix_engine_build_artifact"), "engine_build", ["artifact"], unique=False)
    where = sa.text("state IN ('ordered', 'receiving')")
    op.create_index(
        "ix_engine_build_open",
        "engine_build",
        ["device"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )
