"""The enrolment server: HTTPS on a port of its own, where a device trades a claim code for a certificate.

Rules:
- ``GET /ca.pem`` gives the fleet's CAs to a device that does not know it yet; the device looks
  for the fingerprint that its operator gave it, and only then sends its code, over verified TLS.
- ``POST /enrol`` takes ``{code, csr_pem, hardware_class}``; the answer holds all that a device needs to
  trust this cloud and to connect. Binary values are base64.
- ``GET /blobs/...`` is for devices that have enrolled; see `cloud.gateway.blob_routes`.
- ``POST /renew`` takes an envelope of kind ``req`` with a `CertificateWanted`, as over MQTT, from a device whose
  certificate has ended or whose link is refused; it shows no certificate for that. The answer holds two
  sealed messages, ``desired`` (new keys, and the time) and ``identity`` (the certificate), in this order.
- Requests are small, and limited per address; every refusal has the same form as the REST API's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloud.auth.pki import Pki
from cloud.context import Context
from cloud.errors import (
    AdmissionError,
    DeniedError,
    EnrolmentError,
    InputError,
    TooManyRequestsError,
)
from cloud.gateway import seals
from cloud.gateway.blob_routes import BlobRoutes, PeerProtocol
from cloud.gateway.ratelimit import RateLimit
from cloud.services import enrolment, identities, trust
from cloud.services.enrolment import Issuer
from fleet.errors import OutriderError, SignatureError, WireError
from fleet.registry.repositories import Devices
from fleet.wire import codec, envelope
from fleet.wire.messages import CertificateWanted
from fleet.wire.messages import Request as Wanted
from fleet.wire.topics import Up, UpTopic

MAX_BODY_BYTES = 32 * 1024
BURST = 60.0
PER_S = 5.0
_BODY_TIMEOUT_S = 10.0
log = logging.getLogger(__name__)


class EnrolRequest(msgspec.Struct, frozen=True):
    """What a device sends."""

    code: str
    csr_pem: str
    hardware_class: str = ""


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where the device connects to."""

    host: str
    port: int


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a device gets.

    Attributes:
        image_root, director_root, director_targets: TUF metadata to trust from now on, base64.
        now: the cloud's time, seconds since the epoch.
    """

    device: str
    tenant: str
    certificate_pem: str
    ca_pem: str
    broker: BrokerAddress
    image_root: bytes
    director_root: bytes
    director_targets: bytes
    now: float


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a device gets for its renewal: sealed messages, as the broker would bring them."""

    desired: bytes
    identity: bytes


class EnrolServer:
    """The running server."""

    def __init__(self, context: Context, issuer: Issuer, authorities: bytes) -> None:
        self._context = context
        self._issuer = issuer
        self._authorities = authorities
        self._limit = RateLimit(burst=BURST, per_s=PER_S)
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    def app(self) -> Starlette:
        """The web application."""
        return Starlette(
            routes=[
                Route("/ca.pem", self._ca, methods=["GET"]),
                Route("/enrol", self._enrol, methods=["POST"]),
                Route("/renew", self._renew, methods=["POST"]),
                *BlobRoutes(self._context).routes(),
            ]
        )

    async def start(self) -> None:
        """Listen; requests are taken from now on.

        Raises:
            InputError: the port is taken.
        """
        settings = self._context.settings
        pki = Pki(settings.path("ca"))
        pair = pki.server
        listener = _listen(settings.host, settings.enrol_port)
        config = uvicorn.Config(
            self.app(),
            ssl_certfile=pair.certificate,
            ssl_keyfile=str(pair.key),
            ssl_version=ssl.PROTOCOL_TLS_SERVER,
            ssl_ca_certs=str(pki.bundle),
            ssl_cert_reqs=ssl.CERT_OPTIONAL,  # devices show theirs for blobs
            http=PeerProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=200,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        try:
            config.load()
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
        if self._listener is not None:
            self._listener.close()

    async def _ca(self, request: Request) -> Response:
        try:
            self._check_rate(request)
        except OutriderError as error:
            return _refusal(error)
        return Response(self._authorities, media_type="application/x-pem-file")

    async def _enrol(self, request: Request) -> Response:
        return await self._answered(request, lambda body: self._admit(_parse(body)))

    async def _renew(self, request: Request) -> Response:
        return await self._answered(request, self._renewed)

    async def _answered(
        self, request: Request, act: Callable[[bytes], EnrolAnswer | RenewAnswer]
    ) -> Response:
        what = request.url.path
        try:
            self._check_rate(request)
            answer = await asyncio.to_thread(act, await _body(request))
        except OutriderError as error:
            log.info("%s refused: %s", what, error)
            return _refusal(error)
        except Exception:
            log.exception("%s failed", what)
            return _error(500, "cloud.internal", "that failed; ask again later", retryable=True)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    def _renewed(self, body: bytes) -> RenewAnswer:
        device = envelope.from_bytes(body).device
        with self._context.read() as session:
            row = Devices(session).find(device)
        topic = UpTopic(row.tenant if row else "", device, Up.REQ)
        payload, key = seals.opened(self._context, topic, body)
        wanted: Any = codec.from_json(Wanted, payload)  # type: ignore[arg-type]  # a union is a type to msgspec
        if not isinstance(wanted, CertificateWanted):
            raise WireError(
                "expected a request for a certificate, found another; send it over MQTT"
            )
        identity = identities.renew(self._context, device, wanted, key=key)
        desired = trust.sealed_desired(self._context, device, nonce=wanted.nonce)
        return RenewAnswer(desired=desired, identity=identity)

    def _admit(self, asked: EnrolRequest) -> EnrolAnswer:
        with self._context.unit() as unit:
            admitted = enrolment.enrol(
                unit,
                self._issuer,
                code=asked.code,
                csr_pem=asked.csr_pem.encode(),
                hardware_class=asked.hardware_class,
            )
        desired = trust.desired_for(self._context, admitted.device)
        with self._context.read() as session:
            roots = trust.roots(session)
        settings = self._context.settings
        return EnrolAnswer(
            device=admitted.device,
            tenant=admitted.tenant,
            certificate_pem=admitted.certificate_pem.decode(),
            ca_pem=self._authorities.decode(),
            broker=BrokerAddress(*settings.device_broker(settings.reachable_host)),
            image_root=roots.image,
            director_root=roots.director,
            director_targets=desired.director["targets.json"],
            now=self._context.clock(),
        )

    def _check_rate(self, request: Request) -> None:
        address = request.client.host if request.client else ""
        if not self._limit.allow(address, time.monotonic()):
            raise TooManyRequestsError(
                f"expected at most {PER_S:.0f} requests a second from one address; ask again later"
            )


class _Server(uvicorn.Server):
    """A server beside another one: signals are the other one's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def start(context: Context) -> EnrolServer:
    """Start the enrolment server of an installation.

    Raises:
        DataDirError: the CA is missing or damaged.
        InputError: the port is taken.
    """
    issuer = identities.issuer(context.settings)
    server = EnrolServer(context, issuer, Pki(context.settings.path("ca")).authorities())
    await server.start()
    return server


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise InputError(f"expected at most {MAX_BODY_BYTES} bytes; send less")
    except TimeoutError:
        raise InputError(f"expected the request within {_BODY_TIMEOUT_S:.0f} s") from None
    return bytes(body)


def _parse(body: bytes) -> EnrolRequest:
    try:
        return msgspec.json.decode(body, type=EnrolRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"expected {{code, csr_pem, hardware_class}} as JSON, found {error}"
        ) from None


def _refusal(error: OutriderError) -> Response:
    status = 400
    if isinstance(error, (EnrolmentError, DeniedError, AdmissionError, SignatureError)):
        status = 403
    elif isinstance(error, TooManyRequestsError):
        status = 429
    return _error(status, error.code, str(error), retryable=error.retryable)


def _error(status: int, code: str, message: str, *, retryable: bool) -> Response:
    body = {"error": {"code": code, "message": message, "retryable": retryable}}
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"enrolment cannot listen on {host}:{port}: {error}; choose another enrol_port in cloud.json"
        ) from None
    listener.listen(128)
    return listener
