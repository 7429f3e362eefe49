"""Blobs over HTTPS, for devices: ``GET /blobs/{sha256}`` with ranges, beside enrolment on the same port.

Rules:
- A device shows its certificate; the server verifies it against the fleet's CA, and the registry must know
  it, not revoked. Without one, enrolment works and blobs do not.
- A device gets the blobs of its assignment and their block lists, nothing else, as over MQTT.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from cryptography import x509
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloud.auth import ca
from cloud.broker.permissions import DEVICE_UNIT
from cloud.context import Context
from cloud.errors import AdmissionError, BlobMissingError, DeniedError
from cloud.gateway import metrics
from cloud.gateway.blocks import assigned
from fleet.errors import OutriderError
from fleet.registry.repositories import Devices


class PeerProtocol(HttpToolsProtocol):
    """Tells the application which certificate the client has shown, in ``request.state.peer`` (DER)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower in uvicorn than in asyncio
        """A client has connected."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, "peer": peer}


class BlobRoutes:
    """Args: context: holds the blobs and the registry."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        """What to serve."""
        return [Route("/blobs/{sha256}", self._get, methods=["GET", "HEAD"])]

    async def _get(self, request: Request) -> Response:
        sha256 = str(request.path_params["sha256"])
        peer: Any = getattr(request.state, "peer", None)
        try:
            path = await asyncio.to_thread(self._path_for, peer, sha256)
        except OutriderError as error:
            status = 404 if isinstance(error, BlobMissingError) else 403
            return Response(f"{error.code}: {error}", status, media_type="text/plain")
        metrics.HTTPS_REQUESTS.inc()
        return FileResponse(
            path, media_type="application/octet-stream", headers={"etag": f'"{sha256}"'}
        )

    def _path_for(self, peer: bytes | None, sha256: str) -> str:
        device = self._device(peer)
        if not assigned(self._context, device, sha256):
            raise DeniedError(
                f"expected a blob of the assignment of {device!r}, found {sha256[:80]!r}"
            )
        return str(self._context.blobs.path(sha256))

    def _device(self, peer: bytes | None) -> str:
        """The device that a certificate stands for.

        Raises:
            AdmissionError: there is no certificate, or the registry does not know it as valid.
        """
        if not peer:
            raise AdmissionError("expected a device's certificate, found none; show the device's")
        certificate = x509.load_der_x509_certificate(peer)
        subject, serial = ca.subject_of(certificate), ca.serial_of(certificate)
        with self._context.read() as session:
            device = Devices(session).find(subject.name)
            key = Devices(session).key(serial)
        if (
            subject.unit != DEVICE_UNIT
            or device is None
            or key is None
            or key.device != device.id
            or device.revoked_at is not None
            or key.revoked_at is not None
        ):
            raise AdmissionError(
                f"expected a device's certificate, that of {subject.name!r} is unknown or revoked"
            )
        return device.id
