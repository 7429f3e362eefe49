"""Listening sockets, opened once by the daemon and handed from worker to worker.

Rules:
- Loopback unless the configuration names another address.
- Port 0 takes a free one; `url_of` tells which.
"""

from __future__ import annotations

import socket
from typing import Final

from agent.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 256
_LAST_PORT: Final = 65535


def open_listener(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A listening TCP socket; the caller closes it.

    Args:
        host: a numeric address or a name of this machine.
        port: 0 for any free one.

    Raises:
        ConfigError: the address is none of this machine's, or the port is taken.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"expected a port from 0 (any) to {_LAST_PORT}, found {port}")
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"expected an address to listen on, found {host!r}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}; choose another port, or 0 for any"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """``http://HOST:PORT`` of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
