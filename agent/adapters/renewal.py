"""Asking for a certificate over HTTPS: the server shows a certificate of the fleet's, the device its signature."""

from __future__ import annotations

import http.client
from collections.abc import Callable

import msgspec

from agent.adapters import https
from agent.adapters.identity import Identity
from agent.enrol import Refusal
from agent.errors import LinkError, RenewalError


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Sealed messages, as the broker would bring them; base64 in JSON."""

    desired: bytes
    identity: bytes


def ask(identity: Identity, sealed: bytes, trusted_now: Callable[[], float]) -> Answer:
    """Send a sealed request.

    Raises:
        LinkError: the cloud cannot be reached, or what answers is not it.
        RenewalError: the cloud refuses.
        EnrolmentError: the device's own files are damaged.
    """
    url = identity.url
    context = identity.tls(trusted_now, with_certificate=False)
    status, body = https.post(url, context, "/renew", sealed, kind="application/msgpack")
    try:
        if status == http.client.OK:
            return msgspec.json.decode(body, type=Answer)
        refusal = msgspec.json.decode(body, type=Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(
            f"{url}/renew: expected an answer, found status {status}: {error}"
        ) from None
    raise RenewalError(f"{url} refuses a certificate: {refusal.code}: {refusal.message}")
