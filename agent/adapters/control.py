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

import msgspec

from agent.core.status import AgentStatus
from agent.errors import DiskError, LinkError

NAME = "control.sock"
_TIMEOUT_S = 5.0


class Request(msgspec.Struct, frozen=True):
    """What is asked; ``status`` is all there is."""

    op: str


class Server:
    """Answers on the socket.

    Args:
        folder: the state directory.
        status: makes the answer.
    """

    def __init__(self, folder: Path, status: Callable[[], AgentStatus]) -> None:
        self._folder, self._status = folder, status
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
            if msgspec.json.decode(line, type=Request).op == "status":
                writer.write(msgspec.json.encode(self._status()) + b"\n")
                await writer.drain()
        writer.close()


def ask_status(folder: Path) -> AgentStatus:
    """Ask the daemon of a state directory.

    Raises:
        LinkError: none answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_TIMEOUT_S)
            with _address(folder) as address:
                sock.connect(address)
            sock.sendall(msgspec.json.encode(Request("status")) + b"\n")
            with sock.makefile("rb") as file:
                return msgspec.json.decode(file.readline(), type=AgentStatus)
    except (OSError, msgspec.DecodeError) as error:
        raise LinkError(f"{folder}: expected a daemon to answer, found {error}") from None


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)
