"""A cloud behind a real HTTP server, and a client per role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from support import clouds, commands, served
from support.clouds import Cloud
from support.commands import Run
from support.served import Served

from cloud.auth.pki import Pki
from cloud.auth.roles import Role

Client = Callable[[Role | None], httpx.Client]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = clouds.make(tmp_path / "data", url=f"sqlite:///{tmp_path / 'registry.sqlite'}")
    Pki(made.context.settings.path("ca")).prepare(["localhost"], now=made.clock.now)
    yield made
    made.context.engine.dispose()


@pytest.fixture
def running(cloud: Cloud) -> Iterator[Served]:
    with served.serve(cloud) as made:
        yield made


@pytest.fixture
def client(running: Served) -> Iterator[Client]:
    with ExitStack() as stack:

        def make(role: Role | None) -> httpx.Client:
            headers = {"Authorization": f"Bearer {running.tokens[role]}"} if role else {}
            made = httpx.Client(base_url=running.url, headers=headers, trust_env=False)
            return stack.enter_context(made)

        yield make


@pytest.fixture
def run(running: Served, tmp_path: Path) -> Run:
    """Run `outrider` against the server."""
    return commands.runner(running, tmp_path)
