"""Tokens and dashboard sessions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete
from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import LoginSession, Token


class Access:
    """Queries over tokens and sessions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def token_by_digest(self, token_sha256: str) -> Token | None:
        """The token with that digest, whatever its state."""
        return self._session.exec(select(Token).where(Token.token_sha256 == token_sha256)).first()

    def token(self, token_id: str) -> Token:
        """The token of that id. Raises NotFoundError."""
        found = self._session.get(Token, token_id)
        if found is None:
            raise NotFoundError(f"expected the id of a token, found {token_id!r}; list the tokens")
        return found

    def tokens(self) -> Sequence[Token]:
        """All tokens, oldest first."""
        return self._session.exec(select(Token).order_by(col(Token.created_at))).all()

    def add(self, row: Token | LoginSession) -> None:
        """Add a token or a session."""
        self._session.add(row)

    def login_session(self, cookie_sha256: str) -> LoginSession | None:
        """The session with that cookie digest, whatever its state."""
        return self._session.get(LoginSession, cookie_sha256)

    def end_session(self, cookie_sha256: str) -> None:
        """Forget a session."""
        self._session.exec(
            delete(LoginSession).where(col(LoginSession.cookie_sha256) == cookie_sha256)
        )

    def end_sessions(self, *, expired_at: float) -> None:
        """Forget the sessions that have expired."""
        self._session.exec(delete(LoginSession).where(col(LoginSession.expires_at) <= expired_at))
