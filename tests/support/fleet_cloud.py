"""The cloud's real services in virtual time, for one device that has a real key, certificate and disk.

`link` is what stands between them: TLS is shaken by OpenSSL on both sides, over a pair of sockets, with the
certificates of the installation; then the broker's question is decided by `cloud.broker.callout`. Only the
broker's own look at dates is left to that decision, because OpenSSL cannot be given a virtual time here.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography import x509
from support import clouds
from support.mqtt_device import assign
from support.virtual_cloud import content

from agent.adapters.identity import Broker, Enrolment, Identity
from agent.core import events as ev
from cloud.auth import ca, rollover
from cloud.auth.pki import Pki
from cloud.broker import callout, tokens
from cloud.broker.permissions import Peer
from cloud.errors import AdmissionError
from cloud.gateway.blocks import BlockServer
from cloud.gateway.enrol_server import EnrolServer
from cloud.gateway.handler import Handler
from cloud.gateway.inbox import Incoming
from cloud.services import enrolment, identities, trust
from fleet.errors import OutriderError
from fleet.wire import codec, envelope
from fleet.wire.messages import BlocksWanted, Request
from fleet.wire.topics import Down, Up, UpTopic
from ota.transfer.serve import blocks_for
from ota.verify import trust as device_trust
from ota.verify.trust import TrustStore

DEVICE, TENANT = "d1", "default"
_NO_CHECK_TIME = 0x200000


class FleetCloud:
    """The cloud, as `support.virtual_agent.Device` wants one."""

    def __init__(self, folder: Path, *, certificate_s: float = 30 * 86400.0) -> None:
        self.made = clouds.make(folder)
        self.context = self.made.context
        object.__setattr__(
            self.context,
            "settings",
            msgspec.structs.replace(self.context.settings, device_certificate_s=certificate_s),
        )
        self.pki = Pki(self.context.settings.path("ca"))
        self.restart()
        self.reports: list[Any] = []
        self.https_up = True
        self._out: list[tuple[str, bytes]] = []
        blocks = BlockServer(self.context, lambda *_: None)  # type: ignore[arg-type,return-value]  # never started
        self._handler = Handler(self.context, self._send, blocks)
        self._enrolled: Enrolment | None = None

    def restart(self) -> None:
        """What each start of the cloud does with its certificates."""
        rollover.complete(self.pki)
        self.pki.prepare(["localhost"], now=self.now)
        rollover.complete(self.pki)

    @property
    def now(self) -> float:
        return self.made.clock.now

    @now.setter
    def now(self, value: float) -> None:
        self.made.clock.now = value

    @property
    def blobs(self) -> Any:
        return _Blobs(self.context.blobs)

    def admit(self, identity: Identity, device: str = DEVICE) -> None:
        """Enrol a device for real, but for HTTPS."""
        with self.context.unit() as unit:
            claim = enrolment.create_claim(
                unit, device=device, tenant=TENANT, labels={}, expires_s=600.0, actor="test",
                ids=self.context.ids,
            )  # fmt: skip
        identity.make_key()
        with self.context.unit() as unit:
            admitted = enrolment.enrol(
                unit,
                identities.issuer(self.context.settings),
                code=claim.code,
                csr_pem=identity.request().encode(),
                hardware_class="cpu-x86-64",
            )
            roots = trust.roots(unit.session)
        self._enrolled = Enrolment(
            device=device,
            tenant=TENANT,
            hardware_class="cpu-x86-64",
            broker=Broker(host="localhost", port=1),
            image_root=roots.image,
            director_root=roots.director,
            now=self.now,
            url="https://localhost",
            ca_sha256=self.pki.load_authority().sha256(),
            certificate_pem=admitted.certificate_pem.decode(),
            authorities_pem=self.pki.authorities().decode(),
            issued=self.now,
        )
        identity.save(self._enrolled)

    def initial(self) -> TrustStore:
        held = self._enrolled
        assert held is not None
        return device_trust.initial(held.image_root, held.director_root, now=held.now)

    def release(self, version: str) -> None:
        """Release a version of the model and assign it to the device."""
        house: Any = SimpleNamespace(context=self.context)
        assign(house, DEVICE, content("digits", version, "good"), version=version)

    # --- the network -----------------------------------------------------------------------------

    def link(self, identity: Identity, trusted_now: Any) -> str:
        """Why the broker does not let the device in; empty when it does."""
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.verify_mode = ssl.CERT_REQUIRED
        server.verify_flags |= _NO_CHECK_TIME
        server.load_verify_locations(cafile=self.pki.bundle)
        try:
            der = self._shake(server, identity.tls(trusted_now))
        except (OSError, OutriderError) as error:
            return str(error)
        leaf = x509.load_der_x509_certificate(der)
        peer = Peer(
            kind="mqtt",
            client_id=DEVICE,
            subject=ca.subject_of(leaf),
            serial=ca.serial_of(leaf),
            not_after=leaf.not_valid_after_utc.timestamp(),
        )
        asked: Any = SimpleNamespace(_context=self.context)
        try:
            callout.decide(
                tokens.Question("U", "N", peer),
                registered=lambda it: callout.Callout._registered(asked, it),
                now=self.now,
            )
        except AdmissionError as error:
            return str(error)
        return ""

    def renew(self, device: Any, sealed: bytes) -> Iterator[ev.Event]:
        """What ``POST /renew`` answers, behind a real handshake."""
        if not self.https_up:
            yield ev.RenewalFailed(code="link.unreachable", detail="no network")
            return
        ctx = device.core.ctx
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            tls = device.identity.tls(lambda: ctx.trusted_at(device.now), with_certificate=False)
            self._shake(server, tls)
            service = EnrolServer(
                self.context, identities.issuer(self.context.settings), self.pki.authorities()
            )
            answer = service._renewed(sealed)
        except (OSError, OutriderError) as error:
            yield ev.RenewalFailed(code="link.unreachable", detail=str(error))
            return
        yield ev.Received(kind="desired", payload=answer.desired)
        yield ev.Received(kind="identity", payload=answer.identity)

    def _shake(self, server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
        """Shake hands; the client's certificate as the server saw it (DER), empty for none."""
        server.load_cert_chain(self.pki.server.certificate, self.pki.server.key)
        ours, theirs = socket.socketpair()
        seen: list[bytes] = []
        problems: list[OSError] = []

        def serve() -> None:
            try:
                with server.wrap_socket(ours, server_side=True) as secured:
                    seen.append(secured.getpeercert(binary_form=True) or b"")
                    secured.sendall(b".")
            except OSError as error:
                problems.append(error)
                ours.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            theirs.settimeout(20)
            with client.wrap_socket(theirs, server_hostname="localhost") as secured:
                answered = secured.recv(1) == b"."
        except OSError as error:
            theirs.close()
            raise (problems[0] if problems else error) from None
        finally:
            thread.join()
        if not answered:
            raise problems[0]
        return seen[0]

    def hear(self, kind: str, sealed: bytes) -> Iterator[tuple[str, bytes]]:
        """A message of the device through the gateway's own handler; the answers."""
        if kind == Up.REQ.value:
            wanted: Any = codec.from_json(Request, envelope.from_bytes(sealed).payload)  # type: ignore[arg-type]  # a union is a type to msgspec
            if isinstance(wanted, BlocksWanted):
                for block in blocks_for(
                    wanted, lambda at, n: self.context.blobs.read(wanted.digest, at, n)
                ):
                    yield "blob", codec.to_msgpack(block)
                return
        self._handler.handle(Incoming(UpTopic(TENANT, DEVICE, Up(kind)), sealed))
        self._handler.flush()
        said, self._out = self._out, []
        yield from said

    def _send(self, _: UpTopic, kind: Down, payload: bytes) -> None:
        self._out.append((kind.value, payload))


class _Blobs:
    def __init__(self, store: Any) -> None:
        self._store = store

    def __contains__(self, sha256: str) -> bool:
        return bool(self._store.has(sha256))
