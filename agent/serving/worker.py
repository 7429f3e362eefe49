"""The worker process: one loaded version of one model (arguments: control descriptor, parent's id).

Rules:
- It dies with the process that started it, whatever that process died of.
- The model lives on one thread; orders from the daemon are answered while it works.
- It ends by the daemon's order, by the end of the control connection, or by SIGTERM; Ctrl-C is the
  daemon's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from agent.errors import EngineMissingError, LoadError
from agent.runtimes import registry
from agent.runtimes.port import Options
from agent.serving import protocol
from agent.serving.channel import Channel
from agent.serving.model import ServedModel
from agent.serving.oip.http import Limits
from agent.serving.oip.server import Server
from agent.serving.oip.service import Service
from agent.serving.port import WorkerSpec, attestation_of
from agent.serving.protocol import Answer, Done, Failed, Orders, Pong, Taken, Tested
from agent.serving.thread import InferenceThread
from fleet.errors import OutriderError, WireError
from fleet.wire import envelope
from ota.errors import VerificationError
from ota.verify import artifact as verify
from ota.verify.artifact import VerifiedArtifact

_PR_SET_PDEATHSIG = 1
_OOM_CANDIDATE, _OOM_SERVING = 800, 300
_FLUSH_S = 2.0
_LAST_WORDS_S = 5.0


class WorkerProcess:
    """Carries out the daemon's orders."""

    def __init__(self, channel: Channel[Orders]) -> None:
        """A worker with nothing loaded, inside an event loop."""
        self._channel = channel
        self._thread = InferenceThread()
        self._limits = Limits()
        self._model: ServedModel | None = None
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until told to stop, or until the daemon has gone."""
        while True:
            try:
                order = await self._channel.receive()
            except WireError:
                return
            if order is None or isinstance(order, protocol.Stop):
                return
            task = asyncio.create_task(self._carry_out(order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def leave(self) -> None:
        """Finish what is in flight, as far as that goes quickly."""
        if self._server is not None:
            await self._server.drain(idle_s=0.0, limit_s=_LAST_WORDS_S)
            await self._server.close()

    async def _carry_out(self, order: Orders) -> None:
        try:
            answer = await self._answer(order)
        except OutriderError as error:
            answer = Failed(id=order.id, code=error.code, text=str(error))
        except Exception as error:  # noqa: BLE001 - the daemon decides what it means
            answer = Failed(id=order.id, code=OutriderError.code, text=repr(error))
        with contextlib.suppress(OSError):  # the daemon has gone: `run` sees it too
            await self._channel.send(answer)

    async def _answer(self, order: Orders) -> Answer:
        if isinstance(order, protocol.Load):
            self._model = await self._thread.run(lambda: load(order.spec))
        elif isinstance(order, protocol.RunSelfTest):
            return Tested(id=order.id, outcome=await self._thread.run(self._loaded().self_test))
        elif isinstance(order, protocol.Promote):
            self._promote(self._channel.take_descriptor())
        elif isinstance(order, protocol.Drain):
            if self._server is not None:
                await self._server.drain(idle_s=order.idle_s, limit_s=order.limit_s)
        elif isinstance(order, protocol.TakeFigures):
            await self._flush()
            return Taken(id=order.id, figures=self._loaded().statistics.take())
        elif isinstance(order, protocol.Ping):
            return Pong(id=order.id, busy_s=self._thread.busy_s)
        return Done(id=order.id)

    def _promote(self, descriptor: int) -> None:
        listener = socket.socket(fileno=descriptor)
        if self._server is None:
            service = Service(self._loaded(), self._thread, self._limits)
            self._server = Server(service, self._limits)
        self._server.attach(listener)
        _prefer_to_kill(_OOM_SERVING)

    async def _flush(self) -> None:
        """Let the statistics of answered requests be taken first, unless the thread is busy."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._thread.run(lambda: None), _FLUSH_S)

    def _loaded(self) -> ServedModel:
        if self._model is None:
            raise LoadError("expected a loaded model, found none; send Load first")
        return self._model


def load(spec: WorkerSpec) -> ServedModel:
    """Read, check and open an artifact.

    Raises:
        VerificationError: the bytes are not those of the specification.
        ManifestError, LoadError, RuntimeMissingError, ConfigError: they cannot be run.
    """
    artifact = _verified(spec)
    runtime = registry.open_runtime(artifact, Options(threads=spec.threads))
    runtime = registry.wrap(runtime, artifact, spec.runtime_wrapper)
    version = spec.release.rpartition("@")[2] or artifact.package.manifest.version
    return ServedModel(artifact, runtime, name=spec.model, version=version)


def _verified(spec: WorkerSpec) -> VerifiedArtifact:
    try:
        data = Path(spec.path).read_bytes()
    except OSError as error:
        raise LoadError(f"{spec.path}: expected the artifact of {spec.model}: {error}") from None
    if spec.unsigned:
        return verify.unsigned(data)
    artifact = verify.from_target(data, sha256=spec.sha256, length_bytes=spec.length_bytes)
    return artifact if spec.engine is None else _built(artifact, spec.engine, spec.device_key)


def _built(source: VerifiedArtifact, path: Path, device_key: bytes) -> VerifiedArtifact:
    """The engine that this device built from an artifact, as the device attested it.

    Raises:
        EngineMissingError: it is not there, or it is another; it must be built again.
    """
    try:
        key = load_pem_public_key(device_key)
        if not isinstance(key, EllipticCurvePublicKey):
            raise EngineMissingError(f"{path}: expected an EC key of the device, found another")
        return verify.from_device(
            source,
            path.read_bytes(),
            attestation=attestation_of(path).read_bytes(),
            keys={envelope.key_id(key): key},
        )
    except (OSError, ValueError, VerificationError) as error:
        raise EngineMissingError(f"{path}: {error}; it is built again") from None


async def serve(descriptor: int) -> None:
    """Run a worker on its control connection."""
    channel = Channel(socket.socket(fileno=descriptor), protocol.orders())
    worker = WorkerProcess(channel)
    running = asyncio.ensure_future(worker.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await worker.leave()


def main() -> None:
    """Entry point of the process."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    _prefer_to_kill(_OOM_CANDIDATE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(descriptor))
    sys.stderr.flush()
    os._exit(0)  # native libraries may crash while the interpreter is taken down


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, even when it did before this call."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prefer_to_kill(score: int) -> None:
    """Tell the kernel whom to kill first when memory is short: candidates, then workers, then others."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")


if __name__ == "__main__":
    main()
