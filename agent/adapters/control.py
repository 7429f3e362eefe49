"""The control socket: a person beside the device asks the running daemon how it is.

One request and one answer, each a line of JSON, over a Unix socket in the state directory that only its
owner can open. The path is reached through a descriptor of its folder, because the address of a Unix
socket is short and a folder's path may not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from agent.adapters.medium import Exchanged
from agent.core.status import AgentStatus
from agent.errors import DiskError, LinkError

T = TypeVar("T")
NAME = "control.sock"
_TIMEOUT_S = 5.0


class Request(msgspec.Struct, frozen=True):
    """What is asked: ``status``, ``exchange`` with the medium in a folder, or how that goes, ``exchanged``."""

    op: str
    folder: str = ""


class Exchanger(Protocol):
    """What exchanges with a medium."""

    def exchange(self, folder: Path) -> Exchanged:
        """Begin to."""

    @property
    def exchanged(self) -> Exchanged:
        """How it goes."""


class Server:
    """Answers on the socket.

    Args:
        folder: the state directory.
        status: makes the answer.
        exchanger: exchanges with a medium.
    """

    def __init__(
        self, folder: Path, status: Callable[[], AgentStatus], exchanger: Exchanger
    ) -> None:
        self._folder, self._status, self._exchanger = folder, status, exchanger
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Listen; a socket that a dead daemon left is replaced.

        Raises:
            DiskError: the folder cannot be written.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                (self._folder / NAME).unlink()
            with _address(self._folder) as address:
                sock.bind(address)
        except OSError as error:
            sock.close()
            raise DiskError(f"{self._folder / NAME}: {error.strerror or error}") from None
        finally:
            os.umask(mask)
        sock.setblocking(False)
        self._server = await asyncio.start_unix_server(self._answer, sock=sock)

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                (self._folder / NAME).unlink()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError, msgspec.DecodeError, ValueError):
            line = await asyncio.wait_for(reader.readline(), _TIMEOUT_S)
            answer = self._reply(msgspec.json.decode(line, type=Request))
            if answer is not None:
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        writer.close()

    def _reply(self, request: Request) -> AgentStatus | Exchanged | None:
        if request.op == "status":
            return self._status()
        if request.op == "exchange":
            return self._exchanger.exchange(Path(request.folder))
        return self._exchanger.exchanged if request.op == "exchanged" else None


def ask_status(folder: Path) -> AgentStatus:
    """Ask the daemon of a state directory how it is.

    Raises:
        LinkError: none answers.
    """
    return _ask(folder, Request("status"), AgentStatus)


def ask_exchange(folder: Path, medium: Path | None) -> Exchanged:
    """Have the daemon exchange with the medium in a folder; None: ask how it goes.

    Raises:
        LinkError: none answers.
    """
    request = Request("exchange", str(medium)) if medium is not None else Request("exchanged")
    return _ask(folder, request, Exchanged)


def _ask(folder: Path, request: Request, kind: type[T]) -> T:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_TIMEOUT_S)
            with _address(folder) as address:
                sock.connect(address)
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as file:
                return msgspec.json.decode(file.readline(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise LinkError(f"{folder}: expected a daemon to answer, found {error}") from None


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)
