"""A real installation, its broker running, and clients that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from support.installation import House, Identity, Loop, Peer, eventually, free_port, peer

from cloud import context as cloud_context
from cloud.auth.pki import Pki
from cloud.broker import callout, server
from cloud.settings import Settings
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


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        settings = Settings(data=tmp_path, broker_port=free_port(), broker_client_port=free_port())
        context = cloud_context.build(settings)
        stack.callback(context.engine.dispose)
        pki = Pki(settings.path("ca"))
        pki.prepare(["127.0.0.1", "localhost"], now=context.clock())
        listeners = server.Listeners("127.0.0.1", settings.broker_port, settings.broker_client_port)
        tls = server.Tls(pki.server.certificate, pki.server.key, pki.authority.certificate)
        keys = server.install(settings.path("broker"), listeners, tls)
        loop = Loop()
        stack.callback(loop.close)
        supervisor = stack.enter_context(Supervisor(pid_dir=tmp_path / "run"))
        supervisor.start(server.spec(settings.path("broker"), tmp_path / "broker.log"))
        yield House(context, pki, keys, listeners, supervisor, loop, tmp_path)


@pytest.fixture
def answered(house: House) -> Iterator[House]:
    """The house with its auth callout running and the broker ready."""
    eventually(lambda: house.loop.run(server.is_ready(house.listeners, house.keys)), "broker ready")
    service = house.loop.run(callout.start(house.context))
    yield house
    house.loop.run(service.stop())
