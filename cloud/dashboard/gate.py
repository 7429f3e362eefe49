"""Who looks at a page: the cookie, the way to the sign-in page, and links that sign in once.

Rules:
- A page without a session leads to the sign-in page; a fragment or stream without one answers 401.
- A request that changes something comes from this very site and repeats the session's CSRF secret.
- A link that signs in once is kept in memory, for minutes, and is gone after its first use.
"""

from __future__ import annotations

import threading
from typing import Annotated, NamedTuple
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from fastapi.responses import RedirectResponse, Response

from cloud.api import access
from cloud.auth import sessions, tokens
from cloud.auth.roles import Role
from cloud.auth.sessions import Visitor
from cloud.errors import DeniedError, UnauthenticatedError

LINK_LIFETIME_S = 600.0


class SignInNeededError(UnauthenticatedError):
    """A page was asked for without a session."""


class _Link(NamedTuple):
    secret: str
    expires_at: float


class LoginLinks:
    """Links that sign in once, for the token that asked for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: dict[str, _Link] = {}

    def issue(self, code: str, secret: str, *, now: float) -> None:
        """Let `code` stand for the token `secret` once."""
        with self._lock:
            self._links = {k: v for k, v in self._links.items() if v.expires_at > now}
            self._links[tokens.digest(code)] = _Link(secret, now + LINK_LIFETIME_S)

    def redeem(self, code: str, *, now: float) -> str:
        """The token that `code` stands for. Raises UnauthenticatedError."""
        with self._lock:
            link = self._links.pop(tokens.digest(code), None)
        if link is None or link.expires_at <= now:
            raise UnauthenticatedError(
                "this link was used already or has expired; sign in with a token"
            )
        return link.secret


def visitor_of(request: Request) -> Visitor:
    """Who asks for a page. Raises SignInNeededError."""
    visitor = access.visitor_of(request)
    if visitor is None:
        raise SignInNeededError("the session has ended; sign in again")
    return visitor


Seen = Annotated[Visitor, Depends(visitor_of)]


def actor_of(request: Request, csrf: str) -> Visitor:
    """Who asks for a change.

    Raises:
        DeniedError: the request comes from elsewhere or does not know the CSRF secret.
    """
    check_origin(request)
    visitor = visitor_of(request)
    sessions.check_csrf(visitor, csrf or request.headers.get(sessions.CSRF_HEADER, ""))
    return visitor


def ordered_by(request: Request, csrf: str, role: Role = Role.OPERATOR) -> str:
    """The name of who gives an order.

    Raises:
        DeniedError: as `actor_of`, or the role is not enough.
    """
    visitor = actor_of(request, csrf)
    visitor.principal.need(role)
    return visitor.principal.name


def done(request: Request, page: str) -> Response:
    """The answer to an order that was carried out: nothing to a script, else the way back to the page."""
    if request.headers.get("HX-Request"):
        return Response(status_code=204)
    return RedirectResponse(page, status_code=303)


def check_origin(request: Request) -> None:
    """Raise DeniedError when a browser says that the request was made by another site."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise DeniedError(f"expected a request from this site, found one from {origin}; go there")


def safe_next(path: str) -> str:
    """Where to go after signing in: a path of this site, else the first page."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if inside else "/"


def lead_to_sign_in(request: Request, error: Exception) -> Response:
    """What a visitor without a session gets: the sign-in page, or 401 where a script asked."""
    if request.headers.get("HX-Request") or "text/html" not in request.headers.get("Accept", ""):
        return Response(str(error), status_code=401, media_type="text/plain")
    return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=303)
