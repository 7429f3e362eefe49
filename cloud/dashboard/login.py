"""Signing in and out: by token, or by a link that ``outrider up`` prints and that works once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Header, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from cloud.api.access import Cloud
from cloud.auth import sessions, tokens
from cloud.context import Context
from cloud.dashboard import rendering
from cloud.dashboard.gate import LoginLinks, actor_of, check_origin, safe_next
from cloud.errors import DeniedError, UnauthenticatedError

router = APIRouter(include_in_schema=False)


@router.get("/login")
def sign_in_page(next: str = "/") -> Response:  # noqa: A002 (the name of the query parameter)
    """Ask for a token."""
    return rendering.page("login.html", message="", next=safe_next(next))


@router.post("/login")
def sign_in(
    request: Request,
    cloud: Cloud,
    token: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",  # noqa: A002 (the name of the form field)
) -> Response:
    """Open a session for the holder of a token."""
    check_origin(request)
    try:
        return _signed_in(request, cloud, token.strip(), safe_next(next))
    except DeniedError as error:
        return rendering.page("login.html", status=401, message=str(error), next=safe_next(next))


@router.post("/login/links")
def make_link(
    request: Request, cloud: Cloud, authorization: Annotated[str, Header()] = ""
) -> Response:
    """A link that signs the holder of this bearer token in once.

    Raises:
        UnauthenticatedError: no valid token.
    """
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthenticatedError("expected `Authorization: Bearer TOKEN`, found none; send one")
    now = cloud.clock()
    with cloud.read() as session:
        tokens.authenticate(session, secret.strip(), now=now)
    code = tokens.secret_of(cloud.ids)
    _links(request).issue(code, secret.strip(), now=now)
    return JSONResponse({"path": f"/login/once/{code}"})


@router.get("/login/once/{code}")
def sign_in_once(request: Request, cloud: Cloud, code: str) -> Response:
    """Open a session by a link."""
    try:
        secret = _links(request).redeem(code, now=cloud.clock())
        return _signed_in(request, cloud, secret, "/")
    except DeniedError as error:
        return rendering.page("login.html", status=401, message=str(error), next="/")


@router.post("/logout")
def sign_out(request: Request, cloud: Cloud, csrf: Annotated[str, Form()] = "") -> Response:
    """End the session."""
    actor_of(request, csrf)
    with cloud.unit() as unit:
        sessions.close_session(unit, request.cookies.get(sessions.COOKIE, ""))
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(sessions.COOKIE)
    return answer


def _signed_in(request: Request, context: Context, secret: str, goal: str) -> Response:
    with context.unit() as unit:
        opened = sessions.open_session(unit, context.ids, secret)
    answer = RedirectResponse(goal, status_code=303)
    sessions.set_cookie(answer, opened, secure=request.url.scheme == "https")
    return answer


def _links(request: Request) -> LoginLinks:
    links: LoginLinks = request.app.state.login_links
    return links
