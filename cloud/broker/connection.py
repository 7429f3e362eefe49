"""How processes of ours reach the broker's own protocol: NATS over mTLS.

Rules:
- Both ends show certificates of the fleet's CA: the cloud its gateway certificate, a worker the
  short-lived one that it was given.
- A connection comes back by itself, for ever; what was lost in between is looked for again by its user.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from cloud.auth.pki import Pki
from cloud.settings import Settings

RECONNECT_WAIT_S = 0.25
CLOSE_S = 2.0
_closing: set[asyncio.Task[None]] = set()
"""Kept from the garbage collector until they are done."""
log = logging.getLogger(__name__)
# The client upgrades a plain stream to TLS, and asyncio complains each time that such a stream ends.
logging.getLogger("asyncio").addFilter(lambda it: "returning true from eof_received" not in it.msg)


@dataclass(frozen=True)
class Route:
    """Where the broker is, and how to show who one is."""

    host: str
    port: int
    tls: ssl.SSLContext

    @property
    def url(self) -> str:
        """For the client."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tls://{host}:{self.port}"


def tls(*, ca_pem: str, certificate: Path, key: Path) -> ssl.SSLContext:
    """The client's side of mTLS; only servers of the fleet's CA are trusted."""
    context = ssl.create_default_context(cadata=ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def local_route(settings: Settings) -> Route:
    """The cloud's own way to its broker."""
    pki = Pki(settings.path("ca"))
    context = tls(
        ca_pem=pki.authorities().decode(),
        certificate=pki.gateway.certificate,
        key=pki.gateway.key,
    )
    return Route(settings.local_host, settings.broker_client_port, context)


async def connect(
    route: Route, *, name: str, client: Client | None = None, **options: Any
) -> Client:
    """Connect, and again whenever the connection is lost; waits until it stands.

    Args:
        route: where to.
        name: shown in the broker's list of connections.
        client: a new one that its owner wants to close also while this still tries.
        options: more of the client's options, stronger than the usual ones.
    """
    client = client or Client()
    usual: dict[str, Any] = {
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "error_cb": _log_error,
    }
    await client.connect(route.url, tls=route.tls, name=name, **(usual | options))
    return client


async def close(client: Client) -> None:
    """Leave; a broker that does not answer is not waited for.

    The client's own way to close swallows cancellation and may wait long for the other end of a TLS
    connection, so it goes on by itself.
    """
    closing = asyncio.create_task(client.close())
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    await asyncio.wait({closing}, timeout=CLOSE_S)


async def _log_error(error: Exception) -> None:
    log.debug("connection to the broker: %r", error)
