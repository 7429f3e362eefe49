"""API tokens: issued once, kept as digests only.

A token is 256 random bits; its SHA-256 can be looked up, but not reversed, so no salt or slow hash is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from sqlmodel import Session

from cloud.audit import log
from cloud.auth.roles import Principal, Role, parse
from cloud.context import Unit
from cloud.errors import InputError, UnauthenticatedError
from fleet.registry.repositories import Access
from fleet.registry.tables import Token

PREFIX = "ot_"
_IDS_PER_SECRET = 4


class Issued(NamedTuple):
    """A new token and its secret, which is shown this once."""

    token: Token
    secret: str


def secret_of(ids: Callable[[], str]) -> str:
    """A secret of at least 256 bits out of unguessable ids of 64 bits or more."""
    return "".join(ids() for _ in range(_IDS_PER_SECRET))


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue(
    unit: Unit,
    ids: Callable[[], str],
    *,
    name: str,
    role: Role,
    by: str,
    lifetime_s: float | None = None,
) -> Issued:
    """Make a token.

    Raises:
        InputError: no name, or a lifetime that has passed already.
    """
    if not 1 <= len(name) <= 64:
        raise InputError(f"name: expected 1 to 64 characters, found {len(name)}")
    if lifetime_s is not None and lifetime_s <= 0:
        raise InputError(f"lifetime_s: expected more than 0, found {lifetime_s}")
    secret = PREFIX + secret_of(ids)
    token = Token(
        id=ids(),
        name=name,
        role=role.label,
        token_sha256=digest(secret),
        created_at=unit.now,
        created_by=by,
        expires_at=None if lifetime_s is None else unit.now + lifetime_s,
    )
    Access(unit.session).add(token)
    log.record(unit, actor=by, action="token.issue", subject=token.id, name=name, role=role.label)
    return Issued(token, secret)


def revoke(unit: Unit, token_id: str, *, by: str) -> Token:
    """End a token at once. Raises NotFoundError."""
    token = Access(unit.session).token(token_id)
    if token.revoked_at is None:
        token.revoked_at = unit.now
        log.record(unit, actor=by, action="token.revoke", subject=token.id, name=token.name)
    return token


def authenticate(session: Session, secret: str, *, now: float) -> Principal:
    """Who holds `secret`.

    Raises:
        UnauthenticatedError: nobody, or the token has expired or was revoked.
    """
    token = Access(session).token_by_digest(digest(secret))
    return principal_of(token, now=now)


def principal_of(token: Token | None, *, now: float) -> Principal:
    """The principal of a token that is in force. Raises UnauthenticatedError."""
    if token is None or token.revoked_at is not None:
        raise UnauthenticatedError("expected a valid token, found an unknown or revoked one")
    if token.expires_at is not None and token.expires_at <= now:
        raise UnauthenticatedError("the token has expired; ask an admin for a new one")
    return Principal(token.name, parse(token.role), token.id)
