"""Enrolment: a claim code and a certificate request for a certificate, over HTTPS with a pinned CA.

Rules:
- The CA is fetched first, over a connection that proves nothing, and must have the fingerprint that the
  operator gave; the code is sent only after that, over a connection that this CA vouches for.
- The same key is used when an enrolment is tried again, so that a lost answer costs nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.adapters.identity import Broker, Enrolment, Identity
from agent.errors import EnrolmentError, LinkError
from fleet.wire.topics import check_id
from ota.errors import VerificationError
from ota.verify import trust

TIMEOUT_S = 30.0
_MAX_BYTES = 4 << 20
T = TypeVar("T")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent to ``/enrol``."""

    code: str
    csr_pem: str
    hardware_class: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back; binary values are base64."""

    device: str
    tenant: str
    certificate_pem: str
    ca_pem: str
    broker: Broker
    image_root: bytes
    director_root: bytes
    now: float


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Problem


def enrol(
    identity: Identity, *, url: str, code: str, ca_sha256: str, hardware_class: str
) -> Enrolment:
    """Enrol this device.

    Args:
        identity: where key and certificate are kept.
        url: ``https://HOST:PORT`` of the cloud's enrolment.
        code: the claim code.
        ca_sha256: SHA-256 of the CA certificate (DER), in hex; colons do no harm.
        hardware_class: what to tell the cloud.

    Raises:
        EnrolmentError: the code or the fingerprint is wrong, or the answer does not hold.
        LinkError: the cloud cannot be reached.
    """
    host, port = _address(url)
    fingerprint = ca_sha256.replace(":", "").strip().lower()
    ca_pem = _fetch_ca(host, port, fingerprint)
    key = identity.make_key()
    asked = Asked(code=code.strip(), csr_pem=_request(key), hardware_class=hardware_class)
    answer = _post(host, port, ca_pem, asked)
    _check(answer, key, ca_pem)
    enrolment = Enrolment(
        device=answer.device,
        tenant=answer.tenant,
        hardware_class=hardware_class,
        broker=answer.broker,
        image_root=answer.image_root,
        director_root=answer.director_root,
        now=answer.now,
        url=url,
        ca_sha256=fingerprint,
    )
    identity.save(
        enrolment, certificate_pem=answer.certificate_pem.encode(), ca_pem=ca_pem.encode()
    )
    return enrolment


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if parts.scheme != "https" or not host:
        raise EnrolmentError(f"--url: expected https://HOST:PORT, found {url!r}")
    return host, port


def _fetch_ca(host: str, port: int, fingerprint: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent, and what comes must have the fingerprint
    status, body = _exchange(host, port, context, "GET", "/ca.pem")
    try:
        certificate = x509.load_pem_x509_certificate(body)
    except ValueError:
        raise EnrolmentError(
            f"https://{host}:{port}: expected the fleet's CA at /ca.pem, found status {status} "
            f"and {body[:60]!r}; check --url"
        ) from None
    found = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    if found != fingerprint:
        raise EnrolmentError(
            f"https://{host}:{port}: expected a CA with SHA-256 {fingerprint}, found {found}; "
            "this is not your cloud, or --ca-sha256 is mistyped"
        )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request that proves the key; the cloud chooses the name by the claim."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _post(host: str, port: int, ca_pem: str, asked: Asked) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    status, body = _exchange(host, port, context, "POST", "/enrol", msgspec.json.encode(asked))
    if status != http.client.OK:
        refusal = _decode(_Refusal, body, status)
        raise EnrolmentError(f"refused: {refusal.error.code}: {refusal.error.message}")
    return _decode(Answer, body, status)


def _decode(kind: type[T], body: bytes, status: int) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnrolmentError(
            f"expected an answer to the enrolment, found status {status}: {error}; check --url"
        ) from None


def _exchange(
    host: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise LinkError(
            f"https://{host}:{port}{path}: {error}; check --url and the network"
        ) from None
    finally:
        connection.close()


def _check(answer: Answer, key: ec.EllipticCurvePrivateKey, ca_pem: str) -> None:
    """Nothing is saved that the daemon could not start with."""
    check_id(answer.device, what="device")
    check_id(answer.tenant, what="tenant")
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
        trust.initial(answer.image_root, answer.director_root, now=answer.now)
    except (ValueError, TypeError, VerificationError) as error:
        raise EnrolmentError(f"the cloud's answer does not hold: {error}") from None
    except InvalidSignature:
        raise EnrolmentError(
            "the certificate is not signed by the pinned CA; claim again"
        ) from None
    if certificate.public_key() != key.public_key():
        raise EnrolmentError("the certificate is for another key than this device's; claim again")
