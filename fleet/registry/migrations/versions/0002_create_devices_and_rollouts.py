"""Create devices and rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


TABLES = (
    "device",
    "rollout",
    "assignment",
    "desired_model",
    "device_key",
    "device_model",
    "rollout_device",
    "rollout_step",
)


def upgrade() -> None:
    """Create the tables, what is referred to before what refers."""
    _create_device()
    _create_rollout()
    _create_assignment()
    _create_desired_model()
    _create_device_key()
    _create_device_model()
    _create_rollout_device()
    _create_rollout_step()


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_device() -> None:
    op.create_table(
        "device",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("reported_labels", sa.JSON(), nullable=False),
        sa.Column("hardware_class", sa.String(), nullable=False),
        sa.Column("agent_version", sa.String(), nullable=False),
        sa.Column("boot_epoch", sa.String(), nullable=False),
        sa.Column("runtimes", sa.JSON(), nullable=False),
        sa.Column("trust", sa.JSON(), nullable=False),
        sa.Column("assignment_counter", sa.BigInteger(), nullable=False),
        sa.Column("message_counter", sa.BigInteger(), nullable=False),
        sa.Column("buffered", sa.Integer(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("birth_at", sa.Float(), nullable=True),
        sa.Column("last_seen_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.CheckConstraint("assignment_counter >= 0", name=op.f("ck_device_counter_not_negative")),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 64", name=op.f("ck_device_id_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
    )
    op.create_index(op.f("ix_device_tenant"), "device", ["tenant"], unique=False)


def _create_rollout() -> None:
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cohort", sa.JSON(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("machine", sa.JSON(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "state IN ('draft', 'awaiting_approval', 'scheduled', 'running', 'paused', 'succeeded', 'aborted', 'rolled_back')",
            name=op.f("ck_rollout_state"),
        ),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_rollout_revision_not_negative")),
        sa.ForeignKeyConstraint(
            ["release"], ["release.id"], name=op.f("fk_rollout_release_release")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout")),
    )
    op.create_index(op.f("ix_rollout_model"), "rollout", ["model"], unique=False)
    op.create_index(op.f("ix_rollout_release"), "rollout", ["release"], unique=False)
    op.create_index(op.f("ix_rollout_state"), "rollout", ["state"], unique=False)


def _create_assignment() -> None:
    op.create_table(
        "assignment",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("counter", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("rollout", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.CheckConstraint("counter > 0", name=op.f("ck_assignment_counter_positive")),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_assignment_device_device")
        ),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_assignment_rollout_rollout")
        ),
        sa.PrimaryKeyConstraint("device", "counter", name=op.f("pk_assignment")),
    )
    op.create_index(
        "ix_assignment_device_created_at", "assignment", ["device", "created_at"], unique=False
    )


def _create_desired_model() -> None:
    op.create_table(
        "desired_model",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("rollout", sa.String(), nullable=True),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifact.sha256"], name=op.f("fk_desired_model_artifact_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_desired_model_device_device")
        ),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_desired_model_rollout_rollout")
        ),
        sa.PrimaryKeyConstraint("device", "model", name=op.f("pk_desired_model")),
    )


def _create_device_key() -> None:
    op.create_table(
        "device_key",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.CheckConstraint("not_after > not_before", name=op.f("ck_device_key_validity")),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_device_key_device_device")
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_device_key")),
    )
    op.create_index(op.f("ix_device_key_device"), "device_key", ["device"], unique=False)
    op.create_index(op.f("ix_device_key_key_id"), "device_key", ["key_id"], unique=False)


def _create_device_model() -> None:
    op.create_table(
        "device_model",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("terminal", sa.Boolean(), nullable=False),
        sa.Column("running_release", sa.String(), nullable=False),
        sa.Column("running_sha256", sa.String(), nullable=False),
        sa.Column("previous_release", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("boot_epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_device_model_progress_share")),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_device_model_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "model", name=op.f("pk_device_model")),
    )


def _create_rollout_device() -> None:
    op.create_table(
        "rollout_device",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=True),
        sa.Column("previous_release", sa.String(), nullable=False),
        sa.Column("previous_artifact", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "(previous_release = '') = (previous_artifact IS NULL)",
            name=op.f("ck_rollout_device_previous_is_whole"),
        ),
        sa.CheckConstraint(
            "artifact IS NOT NULL OR state = 'incompatible'",
            name=op.f("ck_rollout_device_member_has_a_variant"),
        ),
        sa.CheckConstraint(
            "counter > 0 OR state IN ('pending', 'incompatible')",
            name=op.f("ck_rollout_device_assigned_by_a_counter"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'assigned', 'stale', 'committed', 'failed', 'incompatible', 'restored')",
            name=op.f("ck_rollout_device_state"),
        ),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifact.sha256"], name=op.f("fk_rollout_device_artifact_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_rollout_device_device_device")
        ),
        sa.ForeignKeyConstraint(
            ["previous_artifact"],
            ["artifact.sha256"],
            name=op.f("fk_rollout_device_previous_artifact_artifact"),
        ),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_rollout_device_rollout_rollout")
        ),
        sa.PrimaryKeyConstraint("rollout", "device", name=op.f("pk_rollout_device")),
    )
    op.create_index(op.f("ix_rollout_device_device"), "rollout_device", ["device"], unique=False)


def _create_rollout_step() -> None:
    op.create_table(
        "rollout_step",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_rollout_step_rollout_rollout")
        ),
        sa.PrimaryKeyConstraint("rollout", "number", name=op.f("pk_rollout_step")),
    )
    op.create_index("ix_rollout_step_at", "rollout_step", ["at"], unique=False)
