"""One request and one bounded answer over HTTPS; no proxy, no redirect, no state."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

from agent.errors import EnrolmentError, LinkError

TIMEOUT_S = 30.0
MAX_BYTES = 4 << 20


def address(url: str) -> tuple[str, int]:
    """Host and port of the cloud's enrolment. Raises EnrolmentError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if parts.scheme != "https" or not host:
        raise EnrolmentError(f"--url: expected https://HOST:PORT, found {url!r}")
    return host, port


def get(url: str, context: ssl.SSLContext, path: str) -> tuple[int, bytes]:
    """Status and body of a GET. Raises EnrolmentError, LinkError."""
    return _exchange(url, context, "GET", path)


def post(
    url: str, context: ssl.SSLContext, path: str, body: bytes, *, kind: str
) -> tuple[int, bytes]:
    """Status and body of a POST; `kind` is the body's media type. Raises EnrolmentError, LinkError."""
    return _exchange(url, context, "POST", path, body, {"Content-Type": kind})


def _exchange(
    url: str,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    host, port = address(url)
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise LinkError(
            f"https://{host}:{port}{path}: {error}; check --url and the network"
        ) from None
    finally:
        connection.close()
