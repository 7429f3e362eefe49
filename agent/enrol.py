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

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.adapters import https, tls
from agent.adapters import identity as identities
from agent.adapters.identity import Broker, Enrolment, Identity
from agent.errors import EnrolmentError
from fleet.wire.topics import check_id
from ota.errors import VerificationError
from ota.verify import trust

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


class Problem(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    code: str = ""
    message: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """The form of every refusal over HTTPS."""

    error: Problem


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
    fingerprint = ca_sha256.replace(":", "").strip().lower()
    ca_pem = _fetch_ca(url, fingerprint)
    key = identity.make_key()
    asked = Asked(code=code.strip(), csr_pem=identity.request(), hardware_class=hardware_class)
    answer = _post(url, ca_pem, asked)
    _check(answer, key)
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
        certificate_pem=answer.certificate_pem,
        authorities_pem=answer.ca_pem,
        issued=answer.now,
    )
    identity.save(enrolment)
    return enrolment


def _fetch_ca(url: str, fingerprint: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent, and what comes must have the fingerprint
    status, body = https.get(url, context, "/ca.pem")
    try:
        authorities = x509.load_pem_x509_certificates(body)
    except ValueError:
        raise EnrolmentError(
            f"{url}: expected the fleet's CAs at /ca.pem, found status {status} "
            f"and {body[:60]!r}; check --url"
        ) from None
    found = {_sha256(certificate): certificate for certificate in authorities}
    if fingerprint not in found:
        raise EnrolmentError(
            f"{url}: expected a CA with SHA-256 {fingerprint}, found {', '.join(found)}; "
            "this is not your cloud, or --ca-sha256 is mistyped"
        )
    return found[fingerprint].public_bytes(serialization.Encoding.PEM).decode()


def _sha256(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _post(url: str, ca_pem: str, asked: Asked) -> Answer:
    # The time is not known yet, and the code is worth nothing to whom this CA does not vouch for.
    context = tls.context(ca_pem, lambda: 0.0)
    body = msgspec.json.encode(asked)
    status, answer = https.post(url, context, "/enrol", body, kind="application/json")
    if status != http.client.OK:
        refusal = _decode(Refusal, answer, status)
        raise EnrolmentError(f"refused: {refusal.error.code}: {refusal.error.message}")
    return _decode(Answer, answer, status)


def _decode(kind: type[T], body: bytes, status: int) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnrolmentError(
            f"expected an answer to the enrolment, found status {status}: {error}; check --url"
        ) from None


def _check(answer: Answer, key: ec.EllipticCurvePrivateKey) -> None:
    """Nothing is saved that the daemon could not start with."""
    check_id(answer.device, what="device")
    check_id(answer.tenant, what="tenant")
    try:
        trust.initial(answer.image_root, answer.director_root, now=answer.now)
    except VerificationError as error:
        raise EnrolmentError(f"the cloud's answer does not hold: {error}") from None
    identities.check(
        answer.certificate_pem,
        answer.ca_pem,
        key=key.public_key(),
        device=answer.device,
        tenant=answer.tenant,
    )
