"""Alembic's environment: migrates over the connection that `fleet.registry.engine.migrate` hands in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from fleet.registry import tables


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.Row.metadata,
        render_as_batch=context.config.attributes.get("render_as_batch", True),
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
