"""Create telemetry."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


TABLES = (
    "drift_state",
    "received",
    "device_event",
    "report",
    "telemetry_window",
)


def upgrade() -> None:
    """Create the tables, what is referred to before what refers."""
    _create_drift_state()
    _create_received()
    _create_device_event()
    _create_report()
    _create_telemetry_window()


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_drift_state() -> None:
    op.create_table(
        "drift_state",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("changed", sa.Boolean(), nullable=False),
        sa.Column("harmful", sa.Boolean(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("windows", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_drift_state_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "model", name=op.f("pk_drift_state")),
    )


def _create_received() -> None:
    op.create_table(
        "received",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("boot_epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("covers", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('reported', 'event', 'telemetry')", name=op.f("ck_received_kind")
        ),
        sa.CheckConstraint("covers >= 1", name=op.f("ck_received_covers_positive")),
        sa.CheckConstraint("seq >= 0", name=op.f("ck_received_seq_not_negative")),
        sa.ForeignKeyConstraint(["device"], ["device.id"], name=op.f("fk_received_device_device")),
        sa.PrimaryKeyConstraint("device", "boot_epoch", "seq", name=op.f("pk_received")),
    )


def _create_device_event() -> None:
    op.create_table(
        "device_event",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("boot_epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "level IN ('info', 'warning', 'error')", name=op.f("ck_device_event_level")
        ),
        sa.ForeignKeyConstraint(
            ["device", "boot_epoch", "seq"],
            ["received.device", "received.boot_epoch", "received.seq"],
            name=op.f("fk_device_event_device_boot_epoch_seq_received"),
        ),
        sa.PrimaryKeyConstraint("device", "boot_epoch", "seq", name=op.f("pk_device_event")),
    )
    op.create_index("ix_device_event_device_at", "device_event", ["device", "at"], unique=False)


def _create_report() -> None:
    op.create_table(
        "report",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("boot_epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("counter", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("terminal", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device", "boot_epoch", "seq"],
            ["received.device", "received.boot_epoch", "received.seq"],
            name=op.f("fk_report_device_boot_epoch_seq_received"),
        ),
        sa.PrimaryKeyConstraint("device", "boot_epoch", "seq", name=op.f("pk_report")),
    )
    op.create_index("ix_report_device_at", "report", ["device", "at"], unique=False)


def _create_telemetry_window() -> None:
    op.create_table(
        "telemetry_window",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("boot_epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("started", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float(), nullable=False),
        sa.Column("inferences", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("merged", sa.Integer(), nullable=False),
        sa.Column("drift_changed", sa.Boolean(), nullable=False),
        sa.Column("drift_score", sa.Float(), nullable=False),
        sa.Column("window", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "inferences >= 0 AND errors >= 0", name=op.f("ck_telemetry_window_counts_not_negative")
        ),
        sa.CheckConstraint("merged >= 1", name=op.f("ck_telemetry_window_merged_positive")),
        sa.ForeignKeyConstraint(
            ["device", "boot_epoch", "seq"],
            ["received.device", "received.boot_epoch", "received.seq"],
            name=op.f("fk_telemetry_window_device_boot_epoch_seq_received"),
        ),
        sa.PrimaryKeyConstraint("device", "boot_epoch", "seq", name=op.f("pk_telemetry_window")),
    )
    op.create_index(
        "ix_telemetry_window_device_model_ended",
        "telemetry_window",
        ["device", "model", "ended"],
        unique=False,
    )
    op.create_index(
        "ix_telemetry_window_sha256_ended", "telemetry_window", ["sha256", "ended"], unique=False
    )
