"""Hand out jobs in units: units of work, attempts, workers, and the role that workers have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OLD_ROLES = ("viewer", "operator", "engineer", "admin")
_NEW_ROLES = ("worker", *_OLD_ROLES)
_OLD_ENDED = "(state IN ('done', 'failed')) = (finished_at IS NOT NULL)"
_NEW_ENDED = "(state IN ('queued', 'running')) = (finished_at IS NULL)"
_OLD_STATES = ("queued", "running", "done", "failed")
_NEW_STATES = (*_OLD_STATES, "cancelled")
_OLD_MOVES = {"queued": ("running",), "running": ("queued", "done", "failed")}
_ENDS = ("done", "failed", "cancelled")
_NEW_MOVES = {
    "queued": ("running", *_ENDS),
    "running": ("queued", *_ENDS),
    "done": ("queued",),
    "failed": ("queued",),
    "cancelled": ("queued",),
}
_UNIT_ENDS = ("done", "failed", "set_aside", "cancelled")
_UNIT_MOVES = {
    "queued": ("running", *_UNIT_ENDS),
    "running": ("queued", *_UNIT_ENDS),
    "done": ("queued",),
    "failed": ("queued",),
    "set_aside": ("queued",),
    "cancelled": ("queued",),
}


def upgrade() -> None:
    """Widen what a job and a token may say, then create the tables."""
    _rewrite_token(_NEW_ROLES)
    _drop_trigger("job")
    _rewrite_job(_NEW_STATES, _NEW_ENDED)
    _create_trigger("job", _NEW_MOVES)
    _create_unit()
    _create_attempt()
    _create_worker()
    _create_trigger("work_unit", _UNIT_MOVES)


def downgrade() -> None:
    """Drop the tables, and what only they could say."""
    _drop_trigger("work_unit")
    for table in ("worker", "work_attempt", "work_unit"):
        op.drop_table(table)
    _drop_trigger("job")
    op.execute("UPDATE job SET state = 'failed' WHERE state = 'cancelled'")
    _rewrite_job(_OLD_STATES, _OLD_ENDED)
    _create_trigger("job", _OLD_MOVES)
    op.execute(
        "DELETE FROM login_session WHERE token IN (SELECT id FROM token WHERE role = 'worker')"
    )
    op.execute("DELETE FROM token WHERE role = 'worker'")
    _rewrite_token(_OLD_ROLES)


def _create_unit() -> None:
    op.create_table(
        "work_unit",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("toolchain", sa.String(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(_NEW_ENDED, name=op.f("ck_work_unit_finished")),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_work_unit_progress_share")),
        sa.CheckConstraint(
            _one_of("state", ("queued", "running", *_UNIT_ENDS)), name=op.f("ck_work_unit_state")
        ),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_work_unit_job_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_unit")),
    )
    op.create_index(op.f("ix_work_unit_job"), "work_unit", ["job"], unique=False)
    op.create_index(op.f("ix_work_unit_state"), "work_unit", ["state"], unique=False)


def _create_attempt() -> None:
    states = ("running", "done", "failed", "died", "handed_back", "cancelled")
    op.create_table(
        "work_attempt",
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("session", sa.String(), nullable=False),
        sa.Column("host", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("log", sa.String(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("heard_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (ended_at IS NULL)", name=op.f("ck_work_attempt_ended")
        ),
        sa.CheckConstraint("number > 0", name=op.f("ck_work_attempt_number_positive")),
        sa.CheckConstraint(_one_of("state", states), name=op.f("ck_work_attempt_state")),
        sa.ForeignKeyConstraint(
            ["unit"], ["work_unit.id"], name=op.f("fk_work_attempt_unit_work_unit")
        ),
        sa.PrimaryKeyConstraint("unit", "number", name=op.f("pk_work_attempt")),
    )


def _create_worker() -> None:
    op.create_table(
        "worker",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("session", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("toolchains", sa.JSON(), nullable=False),
        sa.Column("host", sa.JSON(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("registered_at", sa.Float(), nullable=False),
        sa.Column("heard_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker")),
    )


def _rewrite_job(states: tuple[str, ...], ended: str) -> None:
    with op.batch_alter_table("job") as job:
        job.drop_constraint(op.f("ck_job_state"), type_="check")
        job.drop_constraint(op.f("ck_job_finished"), type_="check")
        job.create_check_constraint(op.f("ck_job_state"), _one_of("state", states))
        job.create_check_constraint(op.f("ck_job_finished"), ended)


def _rewrite_token(roles: tuple[str, ...]) -> None:
    """Change what a token's role may be.

    SQLite cannot change a constraint. Sessions refer to tokens, so the rows step aside while the table is
    made anew under its name: a renamed table would take the references with it.
    """
    name = op.f("ck_token_role")
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint(name, "token", type_="check")
        op.create_check_constraint(name, "token", _one_of("role", roles))
        return
    op.execute("CREATE TABLE token_aside AS SELECT * FROM token")
    op.execute("PRAGMA defer_foreign_keys=ON")
    op.drop_table("token")
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
        sa.CheckConstraint(_one_of("role", roles), name=name),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_token_token_sha256")),
    )
    op.execute("INSERT INTO token SELECT * FROM token_aside")
    op.drop_table("token_aside")


def _one_of(column: str, values: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


def _drop_trigger(table: str) -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(f"DROP TRIGGER {table}_transition" + (f" ON {table}" if postgresql else ""))
    if postgresql:
        op.execute(f"DROP FUNCTION {table}_transition()")


def _create_trigger(table: str, moves: dict[str, tuple[str, ...]]) -> None:
    listed = ", ".join(f"'{old}>{new}'" for old, news in moves.items() for new in news)
    moved = f"OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN ({listed})"
    message = f"{table}: illegal transition"
    if op.get_bind().dialect.name != "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_transition BEFORE UPDATE OF state ON {table} WHEN {moved} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {table}_transition() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_transition BEFORE UPDATE OF state ON {table} FOR EACH ROW "
        f"WHEN ({moved}) EXECUTE FUNCTION {table}_transition()"
    )
