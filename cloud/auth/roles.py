"""Roles: viewer < operator < engineer < admin; each may do what the ones before it may.

A worker stands aside: it may take work and hand it in, which otherwise only an admin may, and reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cloud.errors import DeniedError, InputError


class Role(IntEnum):
    """What a caller may do.

    Attributes:
        WORKER: take units of work and hand in what was made of them.
        VIEWER: read everything but tokens.
        OPERATOR: roll out, claim and revoke devices.
        ENGINEER: push models, compile, release.
        ADMIN: manage tokens.
    """

    WORKER = 1
    VIEWER = 2
    OPERATOR = 3
    ENGINEER = 4
    ADMIN = 5

    @property
    def label(self) -> str:
        """The role as people write it."""
        return self.name.lower()


@dataclass(frozen=True)
class Principal:
    """Who calls: a token's name, role and id."""

    name: str
    role: Role
    token: str

    def need(self, role: Role) -> None:
        """Raise DeniedError when the caller's role is below `role`."""
        if self.role < role:
            raise DeniedError(
                f"expected the role {role.label} or higher, found {self.role.label}; ask an admin for a token"
            )

    def need_worker(self) -> None:
        """Raise DeniedError when the caller is neither a worker nor an admin."""
        if self.role not in {Role.WORKER, Role.ADMIN}:
            raise DeniedError(
                f"expected the role worker, found {self.role.label}; ask an admin for a token of that role"
            )


def parse(text: str) -> Role:
    """The role of that name. Raises InputError."""
    try:
        return Role[text.upper()]
    except KeyError:
        known = ", ".join(role.label for role in Role)
        raise InputError(f"role: expected one of {known}, found {text!r}") from None
