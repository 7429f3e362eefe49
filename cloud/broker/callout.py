"""The auth callout: the broker asks about every connection, the registry decides.

Rules:
- Two responders on connections of their own share the questions, so that one lost connection leaves
  no question unanswered.
- A certificate is let in when the broker verified it, `cloud.broker.permissions` knows its kind, and, for
  a device or a worker, the registry holds it and has not revoked it. What cannot be decided is refused.
- A revoked device's live connection is cut at the bus's hint, and, should the hint be lost, by a sweep
  over all connections every `SWEEP_INTERVAL_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from cloud.auth import ca
from cloud.broker import connection, server, tokens
from cloud.broker import keys as broker_keys
from cloud.broker.admin import Admin
from cloud.broker.keys import BrokerKeys
from cloud.broker.permissions import (
    CLOUD_PREFIX,
    DEVICE_UNIT,
    WORKER_UNIT,
    Peer,
    Permissions,
    permissions,
)
from cloud.broker.server import ACCOUNT
from cloud.context import Context
from cloud.errors import AdmissionError, BrokerError
from cloud.services import workers
from fleet.registry.repositories import Devices

RESPONDERS = 2
SWEEP_INTERVAL_S = 30.0
_SUBJECT = "$SYS.REQ.USER.AUTH"
_QUEUE = "outrider-callout"
_START_WAIT_S = 2.0
log = logging.getLogger(__name__)


def decide(
    question: tokens.Question, *, registered: Callable[[Peer], bool], now: float
) -> Permissions:
    """What the asked-about connection may do.

    Raises:
        AdmissionError: it may not be made.
    """
    peer = question.peer
    if peer is None:
        raise AdmissionError("expected a client certificate of this fleet, found none")
    given = permissions(peer, now=now)
    if peer.subject.unit in {DEVICE_UNIT, WORKER_UNIT} and not registered(peer):
        raise AdmissionError(
            f"{peer.subject.unit} {peer.subject.name!r}: its certificate is unknown or revoked; "
            "enrol or register it again"
        )
    return given


class Callout:
    """The running service."""

    def __init__(self, context: Context, keys: BrokerKeys) -> None:
        self._context = context
        self._keys = keys
        self._clients: list[Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._listening = asyncio.Event()

    async def start(self) -> None:
        """Begin to answer; waits a moment for the broker, and goes on trying when it is not there yet."""
        self._tasks = [
            *(asyncio.create_task(self._respond()) for _ in range(RESPONDERS)),
            asyncio.create_task(self._cut_revoked()),
        ]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), _START_WAIT_S)

    async def stop(self) -> None:
        """Answer no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()

    async def _respond(self) -> None:
        client = await self._connect(self._keys.responder, "callout")
        await client.subscribe(_SUBJECT, queue=_QUEUE, cb=self._answer)
        await client.flush()
        self._listening.set()

    async def _answer(self, message: Msg) -> None:
        now = self._context.clock()
        issuer = self._keys.issuer
        try:
            question = tokens.read_question(message.data)
        except AdmissionError as error:
            log.warning("auth callout: %s", error)
            return
        try:
            given = await asyncio.to_thread(decide, question, registered=self._registered, now=now)
            answer = tokens.grant(question, given, account=ACCOUNT, issuer=issuer, now=now)
        except AdmissionError as error:
            log.info("connection refused: %s", error)
            answer = tokens.deny(question, str(error), issuer=issuer, now=now)
        except Exception:
            log.exception("connection refused: the registry could not be asked")
            answer = tokens.deny(
                question, "the registry could not be asked", issuer=issuer, now=now
            )
        with contextlib.suppress(nats.errors.Error):
            await message.respond(answer)

    def _registered(self, peer: Peer) -> bool:
        if peer.subject.unit == WORKER_UNIT:
            return workers.admitted(self._context, ca.worker_of(peer.subject), peer.serial)
        with self._context.read() as session:
            device = Devices(session).find(peer.subject.name)
            key = Devices(session).key(peer.serial)
        return (
            device is not None
            and key is not None
            and key.device == device.id
            and device.tenant == peer.subject.tenant
            and device.revoked_at is None
            and key.revoked_at is None
        )

    async def _cut_revoked(self) -> None:
        notes = self._context.bus.subscribe("revoked")
        try:
            admin = Admin(await self._connect(self._keys.admin, "admin"))
            while True:
                try:
                    await self._sweep(admin)
                except BrokerError as error:
                    log.warning("cannot look for revoked devices: %s", error)
                except Exception:
                    log.exception("cannot look for revoked devices")
                note = await notes.get(timeout_s=SWEEP_INTERVAL_S)
                if note is not None and "device" in note.data:
                    await self._kick(admin, str(note.data["device"]))
        finally:
            notes.close()

    async def _sweep(self, admin: Admin) -> None:
        live = {client for _, client, _ in await admin.connected() if client}
        known = await asyncio.to_thread(self._known)
        for client_id in live - known:
            if not client_id.startswith(CLOUD_PREFIX):
                await self._kick(admin, client_id)

    async def _kick(self, admin: Admin, client_id: str) -> None:
        try:
            if ended := await admin.kick(client_id):
                log.info("cut %d connection(s) of %r", ended, client_id)
        except BrokerError as error:
            log.warning("cannot cut %r: %s", client_id, error)

    def _known(self) -> set[str]:
        with self._context.read() as session:
            return {device.id for device in Devices(session).all()}

    async def _connect(self, seed: str, name: str) -> Client:
        client = Client()
        self._clients.append(client)
        route = connection.local_route(self._context.settings)
        return await connection.connect(route, name=name, client=client, nkeys_seed_str=seed)


async def start(context: Context) -> Callout:
    """Start the auth callout of an installation.

    Raises:
        DataDirError: the broker's keys are missing or damaged.
    """
    service = Callout(context, broker_keys.load(server.keys_path(context.settings.path("broker"))))
    await service.start()
    return service
