"""Sessions of people at the dashboard: a cookie, and a second secret against forged requests.

Rules:
- The cookie is ``HttpOnly`` and ``SameSite=Strict``; the registry keeps its digest only.
- Every request that changes something must repeat the session's CSRF secret, in the header
  ``X-CSRF-Token`` or the form field ``csrf``; a foreign page can send the cookie but does not know it.
- A session ends with its token: expiry and revocation of the token are looked at on each request.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NamedTuple

from sqlmodel import Session
from starlette.responses import Response

from cloud.auth import tokens
from cloud.auth.roles import Principal, Role
from cloud.context import Unit
from cloud.errors import DeniedError, UnauthenticatedError
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Access
from fleet.registry.tables import LoginSession

COOKIE = "outrider_session"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf"
LIFETIME_S = 12 * 3600.0


class Opened(NamedTuple):
    """A new session: what goes into the cookie, and the CSRF secret for the pages."""

    cookie: str
    csrf: str
    principal: Principal


class Visitor(NamedTuple):
    """Who looks at the dashboard, and the CSRF secret of the session."""

    principal: Principal
    csrf: str


def open_session(unit: Unit, ids: Callable[[], str], secret: str) -> Opened:
    """Open a session for the holder of an API token. Raises UnauthenticatedError, DeniedError."""
    principal = tokens.authenticate(unit.session, secret, now=unit.now)
    principal.need(Role.VIEWER)
    access = Access(unit.session)
    access.end_sessions(expired_at=unit.now)
    cookie, csrf = tokens.secret_of(ids), tokens.secret_of(ids)
    access.add(
        LoginSession(
            cookie_sha256=tokens.digest(cookie),
            token=principal.token,
            csrf=csrf,
            created_at=unit.now,
            expires_at=unit.now + LIFETIME_S,
        )
    )
    return Opened(cookie, csrf, principal)


def set_cookie(response: Response, opened: Opened, *, secure: bool) -> None:
    """Hand the session's cookie to the browser; only over TLS again when `secure`."""
    response.set_cookie(
        COOKIE,
        opened.cookie,
        max_age=int(LIFETIME_S),
        httponly=True,
        samesite="strict",
        secure=secure,
        path="/",
    )


def close_session(unit: Unit, cookie: str) -> None:
    """End the session of a cookie; nothing happens when there is none."""
    Access(unit.session).end_session(tokens.digest(cookie))


def visitor(session: Session, cookie: str, *, now: float) -> Visitor:
    """Who holds the cookie. Raises UnauthenticatedError."""
    access = Access(session)
    found = access.login_session(tokens.digest(cookie))
    if found is None or found.expires_at <= now:
        raise UnauthenticatedError("the session has ended; sign in again")
    try:
        token = access.token(found.token)
    except NotFoundError:
        raise UnauthenticatedError("the session's token is gone; sign in again") from None
    return Visitor(tokens.principal_of(token, now=now), found.csrf)


def check_csrf(visitor: Visitor, given: str) -> None:
    """Raise DeniedError unless `given` is the session's CSRF secret."""
    if not hmac.compare_digest(visitor.csrf.encode(), given.encode()):
        raise DeniedError(
            f"expected the session's CSRF secret in {CSRF_HEADER} or the form field {CSRF_FIELD!r}, found another; reload the page"
        )
