"""One listening socket for each model, held by the daemon for as long as it runs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from agent.adapters.store import Store
from agent.errors import ConfigError, DiskError
from agent.serving import listener
from agent.serving.listener import url_of

__all__ = ["Listeners", "url_of"]


class Listeners:
    """Opens sockets and keeps them.

    Rules:
    - A port that the configuration names is taken or it is an error.
    - A free one is chosen once and asked for again after a restart; when it is taken by then, another
      is chosen: an answer on a new port is better than none.

    Args:
        host: address to listen on.
        ports: port by model, from the configuration.
        store: remembers the ports that were chosen.
    """

    def __init__(self, host: str, ports: Mapping[str, int], store: Store) -> None:
        self._host, self._ports, self._store = host, dict(ports), store
        self._open: dict[str, socket.socket] = {}

    def open(self, model: str) -> socket.socket:
        """The model's listening socket.

        Raises:
            ConfigError: the configured port is taken.
        """
        if model not in self._open:
            self._open[model] = self._bind(model)
        return self._open[model]

    def close(self) -> None:
        """Close all."""
        for sock in self._open.values():
            sock.close()
        self._open.clear()

    def _bind(self, model: str) -> socket.socket:
        configured = self._ports.get(model, 0)
        if configured:
            return listener.open_listener(self._host, configured)
        kept = self._store.load_ports()
        sock = self._again(kept.get(model, 0)) or listener.open_listener(self._host, 0)
        port = sock.getsockname()[1]
        if kept.get(model) != port:
            with contextlib.suppress(DiskError):  # then another one is chosen next time
                self._store.save_ports({**kept, model: port})
        return sock

    def _again(self, port: int) -> socket.socket | None:
        if port:
            with contextlib.suppress(ConfigError):
                return listener.open_listener(self._host, port)
        return None
