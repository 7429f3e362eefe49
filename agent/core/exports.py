"""Engines for twins: what a builder device was ordered to build, and hands over block by block.

Rules:
- The artifact is one that this device runs: it came by its signed assignment, and its slot was hashed since boot.
- Nothing is remembered: the cloud orders again what it did not hear of, and names the blocks that it lacks.
- The signature on an offer is the attestation of the engine's digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.core.commands import BuildForTwins, ReadEngine
from agent.core.events import EngineLacking, EngineRead, EngineReady
from agent.errors import NoSourceError
from fleet.wire import codec
from fleet.wire.messages import (
    Command,
    CommandOp,
    EngineBlock,
    EngineFailure,
    EngineOffer,
    Message,
)
from ota.transfer import bitmap

if TYPE_CHECKING:
    from agent.core.core import Core

MAX_BLOCKS: Final = 16
MAX_BLOCK_BYTES: Final = 64 << 10


class Exports:
    """Args: core: who is spoken to."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._building: set[str] = set()

    def ordered(self, command: Command) -> None:
        """The cloud has ordered an engine, or asks for blocks of one."""
        if command.op is CommandOp.BUILD:
            self._build(command)
        elif command.op is CommandOp.UPLOAD:
            self._upload(command)

    def ready(self, event: EngineReady) -> None:
        """The engine is there: attest it."""
        self._building.discard(event.order)
        self._say(
            EngineOffer(
                id=event.order,
                artifact=event.artifact,
                engine=event.engine,
                length_bytes=event.length_bytes,
                environment=event.environment,
                host_code=event.host_code,
            )
        )

    def lacking(self, event: EngineLacking) -> None:
        """There is none."""
        self._building.discard(event.order)
        self._say(EngineFailure(id=event.order, code=event.code, text=event.detail[:2000]))

    def read(self, event: EngineRead) -> None:
        """A block was read."""
        self._say(
            EngineBlock(id=event.order, engine=event.engine, index=event.index, data=event.data)
        )

    def _build(self, command: Command) -> None:
        if command.id in self._building:
            return
        for machine in self._core.machines.values():
            active = machine.record.active
            if active is not None and active.sha256 == command.artifact:
                self._building.add(command.id)
                self._core.ctx.do(
                    BuildForTwins(
                        order=command.id,
                        model=machine.record.model,
                        sha256=active.sha256,
                        length_bytes=active.length_bytes,
                        slot=active.slot,
                    )
                )
                return
        text = f"expected an artifact that this device runs, found {command.artifact[:12]}"
        self._say(EngineFailure(id=command.id, code=NoSourceError.code, text=text))

    def _upload(self, command: Command) -> None:
        if not 0 < command.block_size_bytes <= MAX_BLOCK_BYTES or command.first < 0:
            return
        indices = list(bitmap.unpack(command.first, command.bitmap))[:MAX_BLOCKS]
        self._core.ctx.do(
            ReadEngine(
                order=command.id,
                engine=command.engine,
                indices=indices,
                block_size_bytes=command.block_size_bytes,
            )
        )

    def _say(self, message: Message) -> None:
        self._core.ctx.publish("req", codec.to_json(message), counter=0)
