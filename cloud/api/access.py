"""Who calls, and what a call may use: FastAPI dependencies.

Rules:
- A bearer token wins over a cookie. A request that changes something and comes with a cookie must repeat
  the session's CSRF secret in ``X-CSRF-Token``.
- Every endpoint below ``/api/v1`` names the least role that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from cloud.auth import sessions, tokens
from cloud.auth.roles import Principal, Role
from cloud.auth.sessions import Visitor
from cloud.context import Context
from cloud.errors import UnauthenticatedError

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def context_of(request: Request) -> Context:
    """The cloud's context."""
    context: Context = request.app.state.context
    return context


def visitor_of(request: Request) -> Visitor | None:
    """Who looks at the dashboard in this session; None without one that is in force."""
    cookie = request.cookies.get(sessions.COOKIE, "")
    if not cookie:
        return None
    context = context_of(request)
    try:
        with context.read() as session:
            return sessions.visitor(session, cookie, now=context.clock())
    except UnauthenticatedError:
        return None


def principal_of(request: Request) -> Principal:
    """Who calls. Raises UnauthenticatedError, DeniedError."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        context = context_of(request)
        with context.read() as session:
            return tokens.authenticate(session, secret.strip(), now=context.clock())
    visitor = visitor_of(request)
    if visitor is None:
        raise UnauthenticatedError(
            "expected a token (header `Authorization: Bearer TOKEN`), found none that is valid"
        )
    if request.method not in _SAFE:
        sessions.check_csrf(visitor, request.headers.get(sessions.CSRF_HEADER, ""))
    return visitor.principal


def needs(role: Role) -> Callable[[Request], Principal]:
    """A dependency that lets callers of at least `role` through."""

    def check(request: Request) -> Principal:
        principal = principal_of(request)
        principal.need(role)
        return principal

    return check


def needs_worker(request: Request) -> Principal:
    """A dependency that lets workers through, and admins."""
    principal = principal_of(request)
    principal.need_worker()
    return principal


Cloud = Annotated[Context, Depends(context_of)]
Viewer = Annotated[Principal, Depends(needs(Role.VIEWER))]
Operator = Annotated[Principal, Depends(needs(Role.OPERATOR))]
Engineer = Annotated[Principal, Depends(needs(Role.ENGINEER))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN))]
Worker = Annotated[Principal, Depends(needs_worker)]
