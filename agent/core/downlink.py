"""Messages from the cloud: each is proved before it is used, and what does not hold is told, not obeyed.

Rules:
- `desired` is judged by the director's counter, `cmd` by the counter of its envelope, which must grow; an
  `ack` or a `res` that comes twice does no harm.
- A block is proved by the signed block list of the download that asked for it; others are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from agent.core.commands import SaveDevice, SaveTrust
from agent.core.events import Received
from fleet.errors import OutriderError, SignatureError
from fleet.wire import codec
from fleet.wire.messages import Ack, Block, Command, CommandOp, Refusal

if TYPE_CHECKING:
    from agent.core.core import Core


class Downlink:
    """Args: core: who is spoken to."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._kinds: dict[str, Callable[[bytes], None]] = {
            "blob": self._blob,
            "broadcast": lambda payload: self._blob(payload, broadcast=True),
            "desired": self._desired,
            "ack": self._ack,
            "res": self._res,
            "cmd": self._cmd,
            "identity": self._identity,
        }

    def received(self, event: Received) -> None:
        """Take a message."""
        handler = self._kinds.get(event.kind)
        if handler is None:
            return
        try:
            handler(event.payload)
        except OutriderError as error:
            self._core.notices.once(error.code, f"{event.kind} refused: {error}")

    def _blob(self, payload: bytes, *, broadcast: bool = False) -> None:
        block = codec.from_msgpack(Block, payload)
        for machine in self._core.machines.values():
            machine.acquisition.on_block(block, broadcast=broadcast)

    def _desired(self, payload: bytes) -> None:
        trust = self._core.trust
        before = trust.store
        try:
            trust.desire(payload)
        finally:
            if trust.store != before:
                self._core.ctx.do(SaveTrust(store=trust.store))
        self._core.renewal.told(trust.authorities_sha256)
        self._core.apply_assignment()

    def _identity(self, payload: bytes) -> None:
        given = self._core.trust.certificate(payload)
        self._core.ctx.do(SaveTrust(store=self._core.trust.store))
        self._core.renewal.given(given)

    def _ack(self, payload: bytes) -> None:
        _, ack = self._core.trust.open("ack", payload, Ack)
        self._check_device(ack.device)
        self._core.uplink.acked([(epoch, seq) for epoch, seqs in ack.acked.items() for seq in seqs])

    def _res(self, payload: bytes) -> None:
        _, refusal = self._core.trust.open("res", payload, Refusal)
        for machine in self._core.machines.values():
            machine.acquisition.on_refusal(refusal)

    def _cmd(self, payload: bytes) -> None:
        sealed, command = self._core.trust.open("cmd", payload, Command)
        last = self._core.device.command_counter
        if sealed.counter <= last:
            raise SignatureError(
                f"expected a command with a counter above {last}, found {sealed.counter}; it is old"
            )
        self._core.device = msgspec.structs.replace(
            self._core.device, command_counter=sealed.counter
        )
        self._core.ctx.do(SaveDevice(record=self._core.device))
        if command.op is CommandOp.REBIRTH:
            self._core.say_birth()
        else:
            self._core.exports.ordered(command)

    def _check_device(self, device: str) -> None:
        mine = self._core.ctx.settings.device
        if device != mine:
            raise SignatureError(f"expected an acknowledgement for {mine!r}, found {device!r}")
