"""Ways of sending less than a whole artifact."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import CheckConstraint
from sqlmodel import Field

from fleet.registry.tables.base import Row, big, one_of

WAY_KINDS = ("delta", "chunks")


class Way(Row, table=True):
    """A blob by which an artifact is had with less to send, and what that was measured to cost.

    Attributes:
        result: the artifact that it leads to.
        base: the artifact that the device holds; empty: none is needed, or none was measured.
        sha256, length_bytes: of the blob; the list of chunks of one artifact is the same for every base.
        cost_bytes: what is sent in all to a device that holds `base`, block lists included.
    """

    __tablename__: ClassVar[str] = "way"
    __table_args__ = (
        one_of("kind", WAY_KINDS, name="kind"),
        CheckConstraint("cost_bytes > 0", name="cost_positive"),
    )

    result: str = Field(foreign_key="artifact.sha256", primary_key=True)
    base: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    sha256: str = Field(index=True)
    length_bytes: int = big()
    blocks_sha256: str = Field(index=True)
    blocks_length_bytes: int = big()
    block_size_bytes: int
    cost_bytes: int = big()
    created_at: float
