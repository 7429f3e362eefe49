"""Create models and access."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


TABLES = (
    "artifact",
    "audit_entry",
    "job",
    "model_version",
    "release",
    "token",
    "trust_file",
    "login_session",
    "release_variant",
    "claim",
)


def upgrade() -> None:
    """Create the tables, what is referred to before what refers."""
    _create_artifact()
    _create_audit_entry()
    _create_job()
    _create_model_version()
    _create_release()
    _create_token()
    _create_trust_file()
    _create_login_session()
    _create_release_variant()
    _create_claim()


def downgrade() -> None:
    """Drop the tables."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_artifact() -> None:
    op.create_table(
        "artifact",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("runtime_version", sa.String(), nullable=False),
        sa.Column("hardware_classes", sa.JSON(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("block_size_bytes", sa.Integer(), nullable=False),
        sa.Column("blocks_sha256", sa.String(), nullable=False),
        sa.Column("blocks_length_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "status IN ('accepted', 'unproven', 'rejected')", name=op.f("ck_artifact_status")
        ),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_artifact_size_positive")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_artifact")),
    )
    op.create_index(op.f("ix_artifact_model"), "artifact", ["model"], unique=False)


def _create_audit_entry() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("details", sa.String(), nullable=False),
        sa.Column("previous_hash", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.CheckConstraint("number > 0", name=op.f("ck_audit_entry_number_positive")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_entry")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_entry_hash")),
        sa.UniqueConstraint("previous_hash", name=op.f("uq_audit_entry_previous_hash")),
    )


def _create_job() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('done', 'failed')) = (finished_at IS NOT NULL)",
            name=op.f("ck_job_finished"),
        ),
        sa.CheckConstraint("kind IN ('compile')", name=op.f("ck_job_kind")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed')", name=op.f("ck_job_state")
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_job_progress_share")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(op.f("ix_job_model"), "job", ["model"], unique=False)
    op.create_index(op.f("ix_job_state"), "job", ["state"], unique=False)


def _create_model_version() -> None:
    op.create_table(
        "model_version",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("folder_sha256", sa.String(), nullable=False),
        sa.Column("archive_sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.CheckConstraint("number > 0", name=op.f("ck_model_version_number_positive")),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_model_version")),
        sa.UniqueConstraint(
            "model", "folder_sha256", name=op.f("uq_model_version_model_folder_sha256")
        ),
        sa.UniqueConstraint("model", "number", name=op.f("uq_model_version_model_number")),
    )


def _create_release() -> None:
    op.create_table(
        "release",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("security_floor", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release")),
    )
    op.create_index(op.f("ix_release_model"), "release", ["model"], unique=False)


def _create_token() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'engineer', 'admin')", name=op.f("ck_token_role")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_token_token_sha256")),
    )


def _create_trust_file() -> None:
    op.create_table(
        "trust_file",
        sa.Column("repository", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "repository IN ('image', 'director')", name=op.f("ck_trust_file_repository")
        ),
        sa.PrimaryKeyConstraint("repository", "name", name=op.f("pk_trust_file")),
    )


def _create_login_session() -> None:
    op.create_table(
        "login_session",
        sa.Column("cookie_sha256", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("csrf", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.CheckConstraint("expires_at > created_at", name=op.f("ck_login_session_expires_later")),
        sa.ForeignKeyConstraint(["token"], ["token.id"], name=op.f("fk_login_session_token_token")),
        sa.PrimaryKeyConstraint("cookie_sha256", name=op.f("pk_login_session")),
    )
    op.create_index(op.f("ix_login_session_token"), "login_session", ["token"], unique=False)


def _create_release_variant() -> None:
    op.create_table(
        "release_variant",
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact"], ["artifact.sha256"], name=op.f("fk_release_variant_artifact_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["release"], ["release.id"], name=op.f("fk_release_variant_release_release")
        ),
        sa.PrimaryKeyConstraint("release", "target", name=op.f("pk_release_variant")),
        sa.UniqueConstraint("path", name=op.f("uq_release_variant_path")),
    )


def _create_claim() -> None:
    op.create_table(
        "claim",
        sa.Column("code_sha256", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.CheckConstraint("expires_at > created_at", name=op.f("ck_claim_expires_later")),
        sa.CheckConstraint(
            "used_at IS NULL OR used_at <= expires_at", name=op.f("ck_claim_used_in_time")
        ),
        sa.PrimaryKeyConstraint("code_sha256", name=op.f("pk_claim")),
    )
    op.create_index(op.f("ix_claim_device"), "claim", ["device"], unique=False)
