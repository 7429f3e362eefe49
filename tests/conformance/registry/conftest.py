"""One suite for every database: each test runs on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from support import postgresql

from fleet.registry import engine as registry

ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    from conftest import postgresql_bin

    binaries = postgresql_bin()
    assert binaries is not None
    with postgresql.server(binaries) as url:
        yield url


def _empty(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'registry.sqlite'}"
    address: str = request.getfixturevalue("postgresql_url")
    engine = registry.connect(address)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return address


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    return _empty(request, tmp_path)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """A migrated registry."""
    made = registry.connect(url)
    registry.migrate(made)
    yield made
    made.dispose()


@pytest.fixture(scope="module", params=["sqlite", ON_POSTGRESQL])
def lasting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A migrated registry for tests that leave it as it was."""
    made = registry.connect(_empty(request, tmp_path_factory.mktemp("registry")))
    registry.migrate(made)
    yield made
    made.dispose()
