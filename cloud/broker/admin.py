"""Administration of the running broker over its system account: who is connected, and ending that."""

from __future__ import annotations

import json
from typing import Any

import nats.errors
from nats.aio.client import Client

from cloud.broker.server import ACCOUNT
from cloud.errors import BrokerError

_PAGE = 1024
_TIMEOUT_S = 5.0


class Admin:
    """Questions and orders to the broker, over a connection as the system account's user."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def connected(self, client_id: str = "") -> list[tuple[str, str, int]]:
        """Connections, all or those of one MQTT client id: (server id, client id, connection number).

        The client id of a connection to the work queue is empty: it ends with its certificate.

        Raises:
            BrokerError: the broker does not answer.
        """
        found: list[tuple[str, str, int]] = []
        while True:
            query = {"acc": ACCOUNT, "limit": _PAGE, "offset": len(found), "state": 0}
            if client_id:
                query["mqtt_client"] = client_id
            answer = await self._ask("$SYS.REQ.SERVER.PING.CONNZ", query)
            server = str(answer["server"]["id"])
            page = answer["data"].get("connections") or []
            found += [(server, str(c.get("mqtt_client", "")), int(c["cid"])) for c in page]
            if len(page) < _PAGE:
                return found

    async def kick(self, client_id: str) -> int:
        """End every live connection of an MQTT client id; returns how many there were.

        Raises:
            BrokerError: the broker does not answer, or no client id was given.
        """
        if not client_id:
            raise BrokerError("expected a client id, found none: that would end every connection")
        connections = await self.connected(client_id)
        for server, _, number in connections:
            await self._ask(f"$SYS.REQ.SERVER.{server}.KICK", {"cid": number})
        return len(connections)

    async def _ask(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._client.request(
                subject, json.dumps(body).encode(), timeout=_TIMEOUT_S
            )
            document = json.loads(answer.data)
        except (nats.errors.Error, TimeoutError, ValueError) as error:
            raise BrokerError(
                f"expected an answer of the broker to {subject}, found {error!r}"
            ) from None
        if not isinstance(document, dict) or "error" in document:
            raise BrokerError(f"the broker refused {subject}: {document!r}")
        return document
