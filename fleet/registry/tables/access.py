"""Who may do what, and who did."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, UniqueConstraint
from sqlmodel import Field

from fleet.registry.tables.base import Row, big_key, one_of

ROLES = ("worker", "viewer", "operator", "engineer", "admin")


class Token(Row, table=True):
    """An API token; only its digest is kept."""

    __tablename__: ClassVar[str] = "token"
    __table_args__ = (one_of("role", ROLES, name="role"),)

    id: str = Field(primary_key=True)
    name: str
    role: str
    token_sha256: str = Field(unique=True)
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None


class LoginSession(Row, table=True):
    """A person's session at the dashboard, opened with a token; only the cookie's digest is kept."""

    __tablename__: ClassVar[str] = "login_session"
    __table_args__ = (CheckConstraint("expires_at > created_at", name="expires_later"),)

    cookie_sha256: str = Field(primary_key=True)
    token: str = Field(foreign_key="token.id", index=True)
    csrf: str
    created_at: float
    expires_at: float


class AuditEntry(Row, table=True):
    """An entry of the audit log; each holds the hash of the one before, so that none can be changed or left out.

    Attributes:
        details: canonical JSON, the very text that was hashed.
    """

    __tablename__: ClassVar[str] = "audit_entry"
    __table_args__ = (
        UniqueConstraint("previous_hash"),
        UniqueConstraint("hash"),
        CheckConstraint("number > 0", name="number_positive"),
    )

    number: int = big_key()
    at: float
    actor: str
    action: str
    subject: str
    details: str
    previous_hash: str
    hash: str


class AuditCheckpoint(Row, table=True):
    """A signature over the audit log's head: nothing up to there can be changed or cut off any more.

    Attributes:
        serial: counts checkpoints, from 1.
        number: of the newest entry that it covers.
        head: the hash of that entry.
        next_key: the public key (JSON) that signs the following ones; empty: the same.
        keyid: the key that signed it.
        signature: over the other fields, hex.
    """

    __tablename__: ClassVar[str] = "audit_checkpoint"
    __table_args__ = (CheckConstraint("serial > 0 AND number > 0", name="counted"),)

    serial: int = big_key()
    number: int = Field(sa_type=BigInteger, index=True)
    at: float
    head: str
    next_key: str = ""
    keyid: str
    signature: str
