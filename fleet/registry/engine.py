"""The registry's database: SQLite in WAL mode by default, PostgreSQL for scale.

Rules:
- A transaction that may write takes SQLite's write lock when it begins (``BEGIN IMMEDIATE``), so that
  it waits for its turn instead of failing in the middle; readers never wait.
- Foreign keys are enforced on both.
- Within a process, writers to one SQLite file also queue on a lock of our own: SQLite before 3.51.3 can
  lose pages when one connection checkpoints while another restarts the log
  (https://sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import Pool, StaticPool
from sqlmodel import Session

from fleet.registry.errors import RegistryBusyError

BUSY_TIMEOUT_S = 10.0
_READ_ONLY = "outrider_read_only"
_LOCK_WAIT_S = 30.0

_locks: WeakKeyDictionary[Pool, threading.Lock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


def connect(url: str) -> Engine:
    """Open the registry at an SQLAlchemy URL: ``sqlite:///FILE``, ``sqlite://`` or ``postgresql+psycopg://…``."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    arguments: dict[str, Any] = {
        "connect_args": {"check_same_thread": False, "timeout": BUSY_TIMEOUT_S}
    }
    if parsed.database in {None, "", ":memory:"}:
        arguments["poolclass"] = StaticPool
    engine = create_engine(parsed, **arguments)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema; does nothing when it is there already."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end, or rolls back when the block raises.

    Raises:
        RegistryBusyError: another writer of this process holds the registry for too long.
    """
    lock = _write_lock(engine)
    if not lock.acquire(timeout=_LOCK_WAIT_S):
        raise RegistryBusyError(
            f"expected to write within {_LOCK_WAIT_S:.0f} s, found the registry held by another writer; try again"
        )
    try:
        with Session(engine, expire_on_commit=False) as session:
            yield session
            session.commit()
    finally:
        lock.release()


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that only reads; what it changes is not kept, what it loaded stays readable."""
    reader = engine.execution_options(**{_READ_ONLY: True})
    with Session(reader, expire_on_commit=False) as session:
        yield session
        session.expunge_all()  # a rollback would expire the rows that the caller goes on reading
        session.rollback()


def _write_lock(engine: Engine) -> threading.Lock:
    if engine.dialect.name != "sqlite":
        return threading.Lock()
    with _locks_guard:
        return _locks.setdefault(engine.pool, threading.Lock())


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = (
        None  # transactions are begun by `_begin_sqlite`, not by the driver
    )
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
