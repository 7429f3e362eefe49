"""Serve artifacts on this machine without a cloud: what ``outrider-agent serve FILE...`` does.

Rules:
- One process and one port per file: the first file on the given port, the next on the ones after it; port 0
  takes free ones.
- The files are not signed: the person at the command line answers for them.
- A worker that dies is started again, after a pause that doubles each time; its port stays open meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import LoadError
from agent.serving.listener import LOOPBACK, open_listener, url_of
from agent.serving.port import Worker, Workers, WorkerSpec
from agent.serving.workers import ProcessWorkers
from fleet.artifact import package
from fleet.errors import ManifestError, OutriderError

FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0
_WELL_S: Final = 60.0

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        host: address to listen on.
        port: of the first file; 0 for free ones.
        threads: per model; 0 lets the runtime choose.
        runtime_wrapper: see `agent.runtimes.registry.wrap`.
    """

    host: str = LOOPBACK
    port: int = 0
    threads: int = 1
    runtime_wrapper: str = ""


async def serve(files: Sequence[Path], options: Options, announce: Announce) -> None:
    """Serve unsigned artifacts until cancelled.

    Args:
        files: artifacts, each of another model or not.
        options: where and how.
        announce: called with a line of text for each thing that a person wants to know.

    Raises:
        ManifestError: a file is no artifact.
        LoadError, RuntimeMissingError: it cannot run here, or its self-test fails.
        ConfigError: a port is taken.
    """
    specs = [await asyncio.to_thread(_spec, path, options) for path in files]
    workers = ProcessWorkers()
    listeners: list[socket.socket] = []
    running: list[_Served] = []
    try:
        for i, spec in enumerate(specs):
            port = options.port + i if options.port else 0
            listeners.append(open_listener(options.host, port))
            served = _Served(workers, spec, listeners[-1], announce)
            running.append(served)
            await served.start()
        await asyncio.gather(*(served.keep() for served in running))
    finally:
        await asyncio.gather(*(served.stop() for served in running))
        for listener in listeners:
            listener.close()


class _Served:
    """One file, and the worker that serves it."""

    def __init__(
        self, workers: Workers, spec: WorkerSpec, listener: socket.socket, announce: Announce
    ) -> None:
        self._workers = workers
        self._spec = spec
        self._listener = listener
        self._announce = announce
        self._worker: Worker | None = None

    async def start(self) -> None:
        """Start a worker, test it, and let it serve."""
        self._worker = worker = await self._workers.start(self._spec)
        try:
            await self._serve(worker)
        except BaseException:
            await worker.stop()
            raise

    async def _serve(self, worker: Worker) -> None:
        spec = self._spec
        outcome = await worker.self_test()
        if not outcome.passed:
            raise LoadError(f"{spec.path}: the golden self-test failed: {outcome.detail}")
        await worker.promote(self._listener)
        self._announce(
            f"{spec.model}: {url_of(self._listener)}/v2/models/{spec.model} "
            f"(self-test passed: cosine {outcome.cosine_min:.5f}, {outcome.latency_ms_p50:.2f} ms)"
        )

    async def keep(self) -> None:
        """Start the worker again whenever it has died."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while self._worker is not None:
            since = loop.time()
            why = await self._worker.wait_exit()
            pause_s = FIRST_PAUSE_S if loop.time() - since > _WELL_S else pause_s
            self._announce(f"{self._spec.model}: its worker ended ({why}); starting it again")
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_PAUSE_S, 2 * pause_s)
            try:
                await self.start()
            except OutriderError as error:
                self._announce(f"{self._spec.model}: {error}")

    async def stop(self) -> None:
        """End the worker."""
        if self._worker is not None:
            await self._worker.stop()


def _spec(path: Path, options: Options) -> WorkerSpec:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: expected an artifact, found none: {error.strerror}") from None
    try:
        manifest = package.read(data).manifest
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    return WorkerSpec(
        model=manifest.model,
        release=manifest.version,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        length_bytes=len(data),
        threads=options.threads,
        runtime_wrapper=options.runtime_wrapper,
        unsigned=True,
    )
