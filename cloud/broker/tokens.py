"""The documents that the broker and its auth callout exchange: NATS JWTs.

A NATS JWT is a JSON Web Token signed with Ed25519 under the algorithm name ``ed25519-nkey``
(https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_callout).

Rules:
- The request comes over an account in which only the broker and the responders can speak, so its
  signature is not checked again; its form is, and every malformed request is refused.
- Pure: time comes in as `now`, the JWT's id is the digest of what it says.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from cloud.auth import ca
from cloud.broker.keys import pair, public
from cloud.broker.permissions import MQTT, Peer, Permissions
from cloud.errors import AdmissionError

_AUDIENCE = "nats-authorization-request"
_MAX_REQUEST_BYTES = 256 * 1024
_UNLIMITED = -1


@dataclass(frozen=True)
class Question:
    """What the broker asks: may this connection be made?

    Attributes:
        user: the public key that the broker made for this connection.
        server: the broker's id, the audience of the answer.
        peer: None when the connection brought no verified certificate.
    """

    user: str
    server: str
    peer: Peer | None


def read_question(data: bytes) -> Question:
    """Parse an authorization request.

    Raises:
        AdmissionError: it is malformed.
    """
    try:
        nats = _claims(data)["nats"]
        return Question(str(nats["user_nkey"]), str(nats["server_id"]["id"]), _peer(nats))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise AdmissionError(f"expected an authorization request, found {error!r}") from None


def grant(
    question: Question, given: Permissions, *, account: str, issuer: str, now: float
) -> bytes:
    """The answer that lets the connection in; `issuer` is the account's seed."""
    user = {
        "sub": question.user,
        "aud": account,
        "name": given.name,
        "exp": int(given.expires),
        "nats": {
            "type": "user",
            "version": 2,
            "allowed_connection_types": ["MQTT" if given.kind == MQTT else "STANDARD"],
            "pub": {"allow": list(given.publish)},
            "sub": {"allow": list(given.subscribe)},
            "subs": _UNLIMITED,
            "data": _UNLIMITED,
            "payload": _UNLIMITED,
        },
    }
    return _answer(question, {"jwt": _signed(user, issuer, now)}, issuer, now)


def deny(question: Question, reason: str, *, issuer: str, now: float) -> bytes:
    """The answer that refuses the connection; the broker writes `reason` to its log."""
    return _answer(question, {"error": reason}, issuer, now)


def _answer(question: Question, body: dict[str, str], issuer: str, now: float) -> bytes:
    answer = {
        "sub": question.user,
        "aud": question.server,
        "nats": {"type": "authorization_response", "version": 2, **body},
    }
    return _signed(answer, issuer, now).encode()


def _peer(nats: dict[str, Any]) -> Peer | None:
    chains = nats.get("client_tls", {}).get("verified_chains") or []
    if not chains:
        return None
    leaf = x509.load_pem_x509_certificate(chains[0][0].encode())
    info = nats["client_info"]
    return Peer(
        kind=str(info.get("type", "")),
        client_id=str(info.get("mqtt_id", "")),
        subject=ca.subject_of(leaf),
        serial=ca.serial_of(leaf),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def _claims(data: bytes) -> dict[str, Any]:
    if len(data) > _MAX_REQUEST_BYTES:
        raise ValueError(f"{len(data)} bytes")
    _, body, _ = data.decode("ascii").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    if not isinstance(claims, dict) or claims.get("aud") != _AUDIENCE:
        raise TypeError(f"no claims for {_AUDIENCE!r}")
    return claims


def _signed(claims: dict[str, Any], issuer: str, now: float) -> str:
    claims = {**claims, "iss": public(issuer), "iat": int(now)}
    claims["jti"] = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).hexdigest()
    head = _part({"typ": "JWT", "alg": "ed25519-nkey"}) + "." + _part(claims)
    return head + "." + _base64(pair(issuer).sign(head.encode()))


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
