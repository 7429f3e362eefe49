"""A real installation, its broker running, and clients that end with the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from support.installation import House, Identity, Loop, Peer, peer

from cloud import bootstrap
from cloud import context as cloud_context
from cloud.broker import callout, server
from cloud.supervise import Supervisor


@pytest.fixture
def connect(house: House) -> Iterator[Callable[..., Peer]]:
    """`peer`, whose clients end with the test."""
    made: list[Peer] = []

    def one(identity: Identity | None, **options: Any) -> Peer:
        made.append(peer(house, identity, **options))
        return made[-1]

    yield one
    for each in made:
        each.client.disconnect()
        each.client.loop_stop()
        with suppress(AttributeError):
            each.client._reset_sockets()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation to copy, which is quicker than making one."""
    made = tmp_path_factory.mktemp("installation") / "data"
    bootstrap.initialise(made)
    return made


@pytest.fixture
def house(template: Path, tmp_path: Path) -> Iterator[House]:
    """An installation whose broker runs; nobody answers its questions yet."""
    with ExitStack() as stack:
        shutil.copytree(template, tmp_path / "data")
        ports = dict.fromkeys(bootstrap.PORTS, 0)
        installation = bootstrap.initialise(tmp_path / "data", **ports)
        context = cloud_context.build(installation.settings)
        stack.callback(context.engine.dispose)
        loop = Loop()
        stack.callback(loop.close)
        supervisor = stack.enter_context(Supervisor(pid_dir=tmp_path / "run"))
        supervisor.start(server.spec(installation.settings.path("broker"), tmp_path / "broker.log"))
        yield House(context, installation, supervisor, loop, tmp_path)


@pytest.fixture
def answered(house: House) -> Iterator[House]:
    """The house with its auth callout running and the broker ready."""
    house.wait_for_broker()
    service = house.loop.run(callout.start(house.context))
    yield house
    house.loop.run(service.stop())


@pytest.fixture
def wired(answered: House) -> Iterator[House]:
    """The house with its gateway connected."""
    running = answered.start_gateway()
    yield answered
    answered.loop.run(running.stop())
