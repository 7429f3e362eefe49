"""Ways of sending less than a whole artifact."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlmodel import Session, col, or_, select

from fleet.registry.tables import Way


class Ways:
    """Queries over ways."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, rows: Sequence[Way]) -> None:
        """Enter ways; what was measured before is replaced."""
        for row in rows:
            self._session.merge(row)
        self._session.flush()

    def to(self, result: str, bases: Collection[str] | None = None) -> Sequence[Way]:
        """The ways to an artifact, cheapest first; from some bases only when they are given."""
        query = select(Way).where(Way.result == result)
        if bases is not None:
            query = query.where(col(Way.base).in_(list(bases)))
        return self._session.exec(query.order_by(col(Way.cost_bytes), col(Way.kind))).all()

    def has(self, result: str, base: str) -> bool:
        """Whether the pair was measured."""
        query = select(Way.kind).where(Way.result == result, Way.base == base).limit(1)
        return self._session.exec(query).first() is not None

    def results_of(self, digest: str) -> set[str]:
        """The artifacts to which the blob of that digest, or the blob whose block list it is, leads."""
        query = select(Way.result).where(or_(Way.sha256 == digest, Way.blocks_sha256 == digest))
        return set(self._session.exec(query).all())
