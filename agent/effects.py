"""What the core's commands do to the world: the disk, the buffer, the link, the workers.

Rule: commands that persist are done when `do` returns, or raise; long ones (hashing, sensors) run in a
thread and answer with an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adapters import rebuilding, renewal, sensors
from agent.adapters.blobs import Blobs
from agent.adapters.builds import Builds
from agent.adapters.crew import Crew
from agent.adapters.exports import Exports
from agent.adapters.identity import Identity
from agent.adapters.links import Links
from agent.adapters.log import Log
from agent.adapters.store import Kept, Store
from agent.buffer.store import Buffer
from agent.core import commands as cmd
from agent.core import events as ev
from agent.errors import DiskError
from agent.runtimes import tensorrt
from fleet.errors import OutriderError
from fleet.wire.messages import Block
from ota.errors import UnattestedError


@dataclass(frozen=True)
class Parts:
    """What commands act on."""

    store: Store
    buffer: Buffer
    crew: Crew
    builds: Builds
    link: Links
    log: Log
    state_dir: Path
    exports: Exports
    blobs: Blobs
    identity: Identity
    trusted_now: Callable[[], float]


class Effects:
    """Carries commands out.

    Args:
        parts: what they act on.
        post: takes the events that answer.
    """

    def __init__(self, parts: Parts, post: Callable[[ev.Event], None]) -> None:
        self._parts, self._post = parts, post
        self._tasks: set[asyncio.Task[None]] = set()
        store, buffer = parts.store, parts.buffer
        self._table: dict[type[cmd.Command], Callable[[Any], None]] = {
            cmd.SaveModel: lambda c: store.save_model(c.record),
            cmd.SaveTrust: lambda c: store.save_trust(c.store),
            cmd.SaveDevice: lambda c: store.save_device(c.record),
            cmd.WriteBlock: lambda c: store.write_block(c.sha256, c.offset, c.data),
            cmd.SaveBitmap: lambda c: store.save_bitmap(c.sha256, Kept(c.block_list, c.bitmap)),
            cmd.GetBlocks: lambda c: self._later(self._get_blocks(c)),
            cmd.Listen: lambda c: parts.link.listen(c.sha256, on=c.on),
            cmd.Discard: self._discard,
            cmd.Append: self._append,
            cmd.Forget: lambda c: buffer.forget(c.keys),
            cmd.LoadRows: self._load_rows,
            cmd.Publish: lambda c: parts.link.publish(c.kind, c.payload),
            cmd.Prepare: self._prepare,
            cmd.Rebuild: lambda c: self._later(self._rebuild(c)),
            cmd.Stage: lambda c: self._later(self._stage(c)),
            cmd.BuildForTwins: lambda c: self._later(self._build_for_twins(c)),
            cmd.ReadEngine: lambda c: self._later(self._read_engine(c)),
            cmd.TakeCertificate: lambda c: self._later(self._take_certificate(c)),
            cmd.AskForCertificate: lambda c: self._later(self._ask_for_certificate(c)),
            cmd.Sense: lambda _: self._later(self._sense()),
            cmd.Log: lambda c: parts.log.line(c.level, c.code, c.text, c.fields),
        }

    def handled(self, event: ev.Event) -> None:
        """The core has taken an event, and what it decided has been carried out."""
        if isinstance(event, ev.Received):
            self._parts.link.handled(event)

    def do(self, command: cmd.Command) -> None:
        """Carry one command out, or start to.

        Raises:
            DiskError: it persists, and could not.
        """
        if not self._parts.crew.take(command) and not self._parts.builds.take(command):
            self._table[type(command)](command)

    async def end(self) -> None:
        """Give up what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the buffer ------------------------------------------------------------------------------

    def _append(self, command: cmd.Append) -> None:
        self._parts.buffer.append(command)
        self._tell_trimmed()

    def _load_rows(self, command: cmd.LoadRows) -> None:
        rows = self._parts.buffer.load(command.after, command.limit)
        waiting = len(self._parts.buffer)
        self._post(ev.RowsLoaded(after=command.after, rows=rows, waiting=waiting))
        self._tell_trimmed()

    def _tell_trimmed(self) -> None:
        trimmed = self._parts.buffer.take_trimmed()
        if trimmed is not None:
            self._post(trimmed)

    def _discard(self, command: cmd.Discard) -> None:
        try:
            self._parts.store.discard(command.keep)
        except DiskError as error:  # tried again with the next assignment
            self._parts.log.line("warning", error.code, str(error))

    # --- blobs -----------------------------------------------------------------------------------

    def _prepare(self, command: cmd.Prepare) -> None:
        try:
            kept = self._parts.store.prepare(command.sha256, command.length_bytes)
        except OutriderError as error:
            self._post(
                ev.PrepareFailed(
                    model=command.model,
                    sha256=command.sha256,
                    code=error.code,
                    detail=str(error),
                )
            )
            return
        self._post(
            ev.Prepared(
                model=command.model,
                sha256=command.sha256,
                block_list=kept.block_list,
                bitmap=kept.bitmap,
            )
        )

    async def _get_blocks(self, command: cmd.GetBlocks) -> None:
        def take(block: Block) -> None:
            self._post(ev.BlockGot(model=command.model, block=block))

        wanted = command.wanted
        try:
            await asyncio.to_thread(self._parts.blobs.get, wanted, take)
        except OutriderError as error:
            failed = ev.BlocksFailed(model=command.model, request=wanted.id, detail=str(error))
            self._post(failed)

    async def _rebuild(self, command: cmd.Rebuild) -> None:
        try:
            self._post(await asyncio.to_thread(rebuilding.rebuild, self._parts.store, command))
        except OutriderError as error:
            model, sha256 = command.model, command.sha256
            self._post(
                ev.RebuildFailed(model=model, sha256=sha256, code=error.code, detail=str(error))
            )

    async def _stage(self, command: cmd.Stage) -> None:
        try:
            manifest = await asyncio.to_thread(self._parts.store.stage, command)
        except OutriderError as error:
            self._post(
                ev.StageFailed(
                    model=command.model,
                    sha256=command.sha256,
                    code=error.code,
                    detail=str(error),
                    refused=isinstance(error, UnattestedError),
                )
            )
            return
        self._post(
            ev.Staged(
                model=command.model,
                sha256=command.sha256,
                manifest_model=manifest.model,
                manifest_runtime=manifest.runtime,
                builds=tensorrt.builds(manifest),
            )
        )

    # --- engines for twins -----------------------------------------------------------------------

    async def _build_for_twins(self, command: cmd.BuildForTwins) -> None:
        slot = self._parts.store.slot_path(command.model, command.slot)
        try:
            self._post(await self._parts.exports.build(command, slot))
        except OutriderError as error:
            self._post(ev.EngineLacking(order=command.order, code=error.code, detail=str(error)))

    async def _read_engine(self, command: cmd.ReadEngine) -> None:
        try:
            for index in command.indices:
                data = await asyncio.to_thread(self._parts.exports.read, command, index)
                self._post(
                    ev.EngineRead(
                        order=command.order, engine=command.engine, index=index, data=data
                    )
                )
        except OutriderError as error:
            self._post(ev.EngineLacking(order=command.order, code=error.code, detail=str(error)))

    # --- the certificate -------------------------------------------------------------------------

    async def _take_certificate(self, command: cmd.TakeCertificate) -> None:
        identity = self._parts.identity
        try:
            unsaved = await asyncio.to_thread(
                identity.take,
                certificate_pem=command.certificate_pem,
                authorities_pem=command.authorities_pem,
                issued=command.issued,
            )
        except OutriderError as error:
            self._post(ev.RenewalFailed(code=error.code, detail=str(error)))
            return
        self._post(ev.CertificateTaken(certificate=identity.certificate(), unsaved=unsaved))
        self._parts.link.renew()

    async def _ask_for_certificate(self, command: cmd.AskForCertificate) -> None:
        parts = self._parts
        try:
            answer = await asyncio.to_thread(
                renewal.ask, parts.identity, command.sealed, parts.trusted_now
            )
        except OutriderError as error:
            self._post(ev.RenewalFailed(code=error.code, detail=str(error)))
            return
        self._post(ev.Received(kind="desired", payload=answer.desired))
        self._post(ev.Received(kind="identity", payload=answer.identity))

    # --- sensors ---------------------------------------------------------------------------------

    async def _sense(self) -> None:
        figures = await asyncio.to_thread(sensors.read, self._parts.state_dir)
        figures["buffer_used_fraction"] = round(self._parts.buffer.used_fraction, 3)
        self._post(ev.Sensed(figures=figures))
