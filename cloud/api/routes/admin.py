"""Audit, tokens, sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from cloud.api.access import Admin, Cloud, Viewer
from cloud.api.answers import answer
from cloud.audit import checkpoints
from cloud.audit import export as audit_export
from cloud.auth import roles, sessions, tokens
from fleet.registry.repositories import Access, Audit
from fleet.registry.tables import AuditEntry, Token

router = APIRouter(tags=["administration"])


class NewToken(BaseModel):
    """Who a token is for and what it may do."""

    model_config = ConfigDict(extra="forbid")
    name: str
    role: str = "viewer"
    lifetime_s: float | None = Field(default=None, gt=0)


class Login(BaseModel):
    """A token to open a session with."""

    model_config = ConfigDict(extra="forbid")
    token: str


@router.get("/audit")
def audit(
    cloud: Cloud,
    _by: Viewer,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: int | None = None,
) -> Response:
    """The newest entries of the audit log; those numbered below `before` when given."""
    with cloud.read() as session:
        return answer([_entry(row) for row in Audit(session).newest(limit, before=before)])


@router.get("/audit/verify")
def verify(cloud: Cloud, _by: Viewer) -> Response:
    """Walk the whole chain of hashes, and hold it against the signed checkpoints."""
    with cloud.read() as session:
        verdict = checkpoints.verify_all(session, cloud.settings)
    return answer({"intact": verdict.intact, **verdict._asdict()})


@router.get("/audit/export")
def export(cloud: Cloud, _by: Viewer) -> Response:
    """The whole log with its checkpoints, one JSON document a line; `outrider audit verify FILE` verifies it."""
    checkpoints.make(cloud)

    def lines() -> Iterator[str]:
        with cloud.read() as session:
            yield from audit_export.lines(session, cloud.settings, now=cloud.clock())

    return StreamingResponse(lines(), media_type="application/jsonl")


@router.post("/tokens", status_code=201)
def issue(body: NewToken, cloud: Cloud, by: Admin) -> Response:
    """Issue a token; its secret is shown this once."""
    with cloud.unit() as unit:
        issued = tokens.issue(
            unit,
            cloud.ids,
            name=body.name,
            role=roles.parse(body.role),
            by=by.name,
            lifetime_s=body.lifetime_s,
        )
        return answer({**_token(issued.token), "token": issued.secret}, 201)


@router.get("/tokens")
def list_tokens(cloud: Cloud, _by: Admin) -> Response:
    """All tokens, without their secrets."""
    with cloud.read() as session:
        return answer([_token(row) for row in Access(session).tokens()])


@router.delete("/tokens/{token}")
def revoke(token: str, cloud: Cloud, by: Admin) -> Response:
    """End a token at once."""
    with cloud.unit() as unit:
        return answer(_token(tokens.revoke(unit, token, by=by.name)))


@router.post("/session", status_code=201)
def login(body: Login, cloud: Cloud, request: Request) -> Response:
    """Open a session for the dashboard: sets the cookie, answers the CSRF secret."""
    with cloud.unit() as unit:
        opened = sessions.open_session(unit, cloud.ids, body.token)
    response = answer(
        {"name": opened.principal.name, "role": opened.principal.role.label, "csrf": opened.csrf},
        201,
    )
    sessions.set_cookie(response, opened, secure=request.url.scheme == "https")
    return response


@router.delete("/session")
def logout(cloud: Cloud, request: Request, _by: Viewer) -> Response:
    """End the session of the cookie."""
    with cloud.unit() as unit:
        sessions.close_session(unit, request.cookies.get(sessions.COOKIE, ""))
    response = answer({})
    response.delete_cookie(sessions.COOKIE)
    return response


def _token(row: Token) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "created_at": row.created_at,
        "created_by": row.created_by,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }


def _entry(row: AuditEntry) -> dict[str, Any]:
    return {
        "number": row.number,
        "at": row.at,
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "details": row.details,
        "hash": row.hash,
    }
