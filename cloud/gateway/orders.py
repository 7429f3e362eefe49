"""What builders are asked for: to build, or to hand blocks over; again and again until they did.

Rule: nothing is remembered here; what is to be asked follows from the registry, and a device that heard twice does no harm.
"""

from __future__ import annotations

from typing import Final

from cloud.context import Context
from cloud.services import engines
from fleet.registry.repositories import Devices, Engines
from fleet.registry.tables import EngineBuild
from fleet.wire.messages import Command, CommandOp
from fleet.wire.topics import Up, UpTopic
from ota.proving.engine import BLOCK_BYTES, EngineState
from ota.transfer import bitmap

ASK_EVERY_S: Final = 10.0
BLOCKS_AT_ONCE: Final = 16


def due(context: Context, *, device: str = "") -> list[tuple[UpTopic, Command]]:
    """The commands that are due to builders that are online; notes that they were asked.

    Args:
        context: the cloud.
        device: only for this one, and whether or not it was asked a moment ago.
    """
    found = []
    with context.unit() as unit:
        for row in Engines(unit.session).open():
            builder = Devices(unit.session).get(row.device)
            waiting = not device and unit.now < row.asked_at + ASK_EVERY_S
            if not builder.online or waiting or device not in {"", row.device}:
                continue
            row.asked_at = unit.now
            found.append((UpTopic(builder.tenant, builder.id, Up.REQ), command(row)))
    return found


def command(row: EngineBuild) -> Command:
    """What a builder is to do next for an order."""
    if row.state == EngineState.ORDERED.value:
        return Command(id=row.id, op=CommandOp.BUILD, artifact=row.artifact)
    first, wanted = bitmap.pack(engines.missing(row, limit=BLOCKS_AT_ONCE))
    return Command(
        id=row.id,
        op=CommandOp.UPLOAD,
        engine=row.engine,
        first=first,
        bitmap=wanted,
        block_size_bytes=BLOCK_BYTES,
    )
