"""A served model inside the test's own event loop, and a client that speaks raw HTTP to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
from support import artifacts

from agent.runtimes import registry
from agent.serving.listener import open_listener
from agent.serving.model import ServedModel
from agent.serving.oip.http import Limits
from agent.serving.oip.server import Server
from agent.serving.oip.service import Service
from agent.serving.thread import InferenceThread
from fleet.artifact.package import Package

WAIT_S = 20.0


@dataclass
class Serving:
    """A running server."""

    server: Server
    model: ServedModel
    thread: InferenceThread
    address: tuple[str, int]

    async def connect(self) -> Client:
        return await Client.connect(self.address)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            client.send(request(method, path, body, **headers))
            return await client.answer()
        finally:
            await client.close()


@dataclass
class Answer:
    """A parsed answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @staticmethod
    async def connect(address: tuple[str, int]) -> Client:
        return Client(*await asyncio.open_connection(*address))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> Answer:
        """The next answer; EOFError when the server has closed."""
        async with _limit():
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise EOFError from error
            lines = head.decode("latin-1").split("\r\n")[:-2]
            pairs = (line.partition(": ") for line in lines[1:])
            headers = {name.lower(): value for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(lines[0].split()[1]), headers, body)

    async def ended(self) -> bytes:
        """What still comes until the server closes."""
        async with _limit():
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(
    content: Package, limits: Limits | None = None, *, plug_in: str = ""
) -> AsyncIterator[Serving]:
    """Serve a package on a free port of the loopback."""
    limits = limits or Limits()
    artifact = artifacts.verified(content)
    thread = InferenceThread()

    def load() -> ServedModel:
        runtime = registry.wrap(registry.open_runtime(artifact), artifact, plug_in)
        return ServedModel(artifact, runtime, name="classify", version="1")

    model = await thread.run(load)
    server = Server(Service(model, thread, limits), limits)
    listener = open_listener()
    address = listener.getsockname()
    server.attach(listener)
    try:
        yield Serving(server, model, thread, address)
    finally:
        await server.close()
        thread.close()
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; fail after `WAIT_S`."""
    for _ in range(int(WAIT_S / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come true in time")


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request; ``_`` in header names stands for ``-``."""
    lines = [f"{method} {path} HTTP/1.1", "host: device"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def infer_json(array: np.ndarray, *, name: str = "image", datatype: str = "FP32") -> bytes:
    """The body of an inference request in JSON."""
    item = {"name": name, "shape": list(array.shape), "datatype": datatype}
    return json.dumps({"inputs": [item | {"data": array.ravel().tolist()}]}).encode()


def infer(array: np.ndarray, **how: str) -> bytes:
    """A whole inference request for the classifier."""
    return request("POST", "/v2/models/classify/infer", infer_json(array, **how))


def outputs(answer: Answer) -> dict[str, np.ndarray]:
    """The outputs of a JSON answer, as float32."""
    assert answer.status == 200, answer.body
    return {
        item["name"]: np.array(item["data"], np.float32).reshape(item["shape"])
        for item in answer.json["outputs"]
    }


def is_listening(address: tuple[str, int]) -> bool:
    """Whether a connection to the address is accepted."""
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


@contextlib.asynccontextmanager
async def _limit() -> AsyncIterator[None]:
    """A deadline for the body; asyncio.timeout is missing in Python 3.10."""
    task = asyncio.current_task()
    assert task is not None
    handle = asyncio.get_running_loop().call_later(WAIT_S, task.cancel)
    try:
        yield
    finally:
        handle.cancel()
