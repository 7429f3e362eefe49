"""Added latency of the Open Inference Protocol over the bare runtime, beside a bare FastAPI handler.

All three run the same model on the same arrays in turns. The FastAPI handler takes raw bytes and
returns raw bytes, with no protocol at all: less than any server of the protocol could do there.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import harness
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import artifacts

from agent.runtimes.registry import open_runtime
from agent.serving.listener import open_listener
from agent.serving.port import WorkerSpec
from agent.serving.workers import ProcessWorkers
from simulator.demo.oip import Client

ROUNDS = 300


class Served:
    """A worker process that answers on a socket, run from a thread's event loop."""

    def __init__(self, folder: Path, content) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        path = folder / "model.outrider"
        sha256, length = artifacts.save(content, path)
        name = content.manifest.model
        spec = WorkerSpec(model=name, release="1", path=path, sha256=sha256, length_bytes=length)
        self._listener = open_listener()
        self._worker = self._call(ProcessWorkers().start(spec))
        self._call(self._worker.promote(self._listener))
        self.client = Client(f"http://127.0.0.1:{self._listener.getsockname()[1]}", name)

    def _call(self, what):
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    def close(self) -> None:
        self.client.close()
        self._call(self._worker.stop())
        self._listener.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def fastapi_handler(model: str, shape: tuple[int, ...], listener) -> None:
    """The peer's process."""
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI, Request, Response

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    app = FastAPI()

    async def infer(request: Request) -> Response:
        array = np.frombuffer(await request.body(), np.float32).reshape(shape)
        return Response(
            session.run(None, {name: array})[0].tobytes(), media_type="application/octet-stream"
        )

    infer.__annotations__ = {"request": Request, "return": Response}
    app.post("/infer")(infer)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])


class Peer:
    """A keep-alive client of the FastAPI handler."""

    def __init__(self, model: Path, shape: tuple[int, ...]) -> None:
        listener = open_listener()
        listener.setblocking(True)
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(
            target=fastapi_handler, args=(str(model), shape, listener), daemon=True
        )
        self._process.start()
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", listener.getsockname()[1], timeout=30
        )
        listener.close()

    def infer(self, array: np.ndarray) -> bytes:
        self._connection.request("POST", "/infer", array.tobytes())
        return self._connection.getresponse().read()

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()


def compare(content, file: str, name: str, array: np.ndarray, rounds: int) -> dict:
    """Medians of the three contestants, and the ratio of what they add."""
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder), content)
        peer = Peer(artifacts.MODELS / file, array.shape)
        runtime = open_runtime(artifacts.verified(content))
        try:
            seconds = harness.interleaved(
                {
                    "bare_runtime": lambda: runtime.run({name: array}),
                    "outrider_http": lambda: served.client.infer({name: array}),
                    "fastapi_handler": lambda: peer.infer(array),
                },
                rounds=rounds,
                warmup=20,
            )
        finally:
            runtime.close()
            peer.close()
            served.close()
    median = {who: statistics.median(times) for who, times in seconds.items()}
    added = {
        who: (median[who] - median["bare_runtime"]) * 1e3
        for who in ("outrider_http", "fastapi_handler")
    }
    return {
        "added_ms_median": {who: round(value, 3) for who, value in added.items()},
        "added_ratio_to_fastapi_handler": round(
            added["outrider_http"] / added["fastapi_handler"], 2
        ),
        "raw": {who: harness.summary(times) for who, times in seconds.items()},
    }


def main() -> None:
    """Run and save."""
    small = compare(artifacts.classify(), "classify.onnx", "image", artifacts.images(1), ROUNDS)
    harness.save(
        "serving",
        {"float32_1x3x8x8": small},
        "numpy",
        "onnxruntime",
        "fastapi",
        "uvicorn",
        "httptools",
    )


if __name__ == "__main__":
    main()
