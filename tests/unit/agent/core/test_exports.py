"""What a device does with orders for engines: it builds of what it runs, attests, and hands blocks over."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from support.virtual_agent import Device
from support.virtual_cloud import KEY, Cloud

from agent.core import commands as cmd
from agent.errors import NoSourceError
from fleet.wire import envelope
from fleet.wire.messages import CommandOp, EngineBlock, EngineFailure, EngineOffer
from ota.transfer import bitmap

pytestmark = pytest.mark.agent
BLOCK = 16 << 10


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def device(cloud: Cloud) -> Device:
    made = Device(cloud)
    cloud.assign(cloud.release("digits", "1"))
    made.connect()
    made.run(60)
    return made


def active(device: Device) -> str:
    record = device.model()
    assert record.active is not None
    return record.active.sha256


def test_it_builds_of_what_it_runs_attests_and_hands_over(cloud: Cloud, device: Device) -> None:
    build: dict[str, Any] = {"id": "o1", "artifact": active(device)}
    device.push("cmd", cloud.command(CommandOp.BUILD, 10, **build))
    device.push(
        "cmd", cloud.command(CommandOp.BUILD, 11, **build)
    )  # while it builds: once is enough
    device.run(60)
    (offer,) = cloud.requests
    assert isinstance(offer, EngineOffer)
    assert (offer.id, offer.artifact, offer.host_code) == ("o1", active(device), False)
    first, wanted = bitmap.pack(range(4))
    device.push(
        "cmd",
        cloud.command(
            CommandOp.UPLOAD, 12, id="o1", engine=offer.engine, first=first, bitmap=wanted,
            block_size_bytes=BLOCK,
        ),
    )  # fmt: skip
    device.run(5)
    blocks = cloud.requests[1:]
    assert all(isinstance(block, EngineBlock) for block in blocks)
    data = b"".join(block.data for block in sorted(blocks, key=lambda block: block.index))
    assert len(data) == offer.length_bytes
    assert hashlib.sha256(data).hexdigest() == offer.engine


def test_what_it_does_not_run_is_refused(cloud: Cloud, device: Device) -> None:
    device.push("cmd", cloud.command(CommandOp.BUILD, 10, artifact="e" * 64))
    device.run(5)
    (failure,) = cloud.requests
    assert isinstance(failure, EngineFailure)
    assert failure.code == NoSourceError.code
    assert not any(isinstance(command, cmd.BuildForTwins) for command in device.log)


def test_orders_by_a_strange_key_and_old_ones_are_not_obeyed(cloud: Cloud, device: Device) -> None:
    device.push("cmd", cloud.command(CommandOp.BUILD, 10, artifact=active(device)))
    device.push("cmd", cloud.command(CommandOp.BUILD, 9, id="old", artifact=active(device)))
    forged = envelope.from_bytes(cloud.command(CommandOp.BUILD, 12, artifact=active(device)))
    sealed = envelope.seal(
        "cmd", "d1", forged.payload, envelope.signer(KEY), counter=12, expires=forged.expires
    )
    device.push("cmd", envelope.to_bytes(sealed))
    device.run(60)
    assert [request.id for request in cloud.requests] == ["c"]


@pytest.mark.parametrize("size", [0, -1, 1 << 30])
def test_blocks_of_an_absurd_size_are_not_read(cloud: Cloud, device: Device, size: int) -> None:
    order = {"engine": "x", "first": 0, "bitmap": b"\xff", "block_size_bytes": size}
    device.push("cmd", cloud.command(CommandOp.UPLOAD, 10, **order))
    device.run(5)
    assert not any(isinstance(command, cmd.ReadEngine) for command in device.log)
