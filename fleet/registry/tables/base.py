"""What all tables share: one metadata with named constraints, and two column shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, CheckConstraint, MetaData
from sqlmodel import Field, SQLModel


class Row(SQLModel):
    """Base of every table; constraint names are fixed, so that migrations can name them."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def json_dict() -> Any:
    """A JSON object; assign a new one to change it, in-place changes are not seen."""
    return Field(default_factory=dict, sa_type=JSON)


def json_list() -> Any:
    """A JSON array; assign a new one to change it, in-place changes are not seen."""
    return Field(default_factory=list, sa_type=JSON)


def big(default: int = 0) -> Any:
    """A 64-bit integer column."""
    return Field(default=default, sa_type=BigInteger)


def big_key() -> Any:
    """A 64-bit integer that is part of the primary key and never drawn by the database."""
    return Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})


def one_of(column: str, values: Iterable[str], *, name: str) -> CheckConstraint:
    """A CHECK that `column` holds one of `values`."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=name)
