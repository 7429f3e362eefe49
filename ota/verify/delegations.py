"""Which roles a document delegates a target's path to (TUF specification, section 4.5).

Rules:
- A pattern matches part by part: a wildcard does not cross a slash.
- Hash bins, spelt out (``path_hash_prefixes``) or succinct (TAP 15), are chosen by the path's SHA-256.
- A search compares a bounded amount of wildcards: a document that asks for more is refused.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import Final

from tuf.api.metadata import DelegatedRole, Targets

from ota.errors import MetadataError

MAX_WILDCARDS: Final = 50_000
"""Characters of path patterns with wildcards that one search looks at (compiling one takes about 30 µs)."""

_WILD: Final = frozenset("*?[")


class Search:
    """One search for a target.

    Args:
        path: the target's path.
    """

    def __init__(self, path: str) -> None:
        self._parts = path.split("/")
        self._path = path
        self._digest = hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()
        self._wildcards = 0

    def children(self, targets: Targets) -> tuple[list[str], bool]:
        """The roles to ask next, in their order, and whether the last of them ends the search.

        Raises:
            MetadataError: there are too many patterns.
        """
        delegations = targets.delegations
        if delegations is None:
            return [], False
        if delegations.succinct_roles is not None:
            return [delegations.succinct_roles.get_role_for_target(self._path)], True
        found: list[str] = []
        for role in (delegations.roles or {}).values():
            if self._is_delegated(role):
                found.append(role.name)
                if role.terminating:
                    return found, True
        return found, False

    def _is_delegated(self, role: DelegatedRole) -> bool:
        if role.path_hash_prefixes is not None:
            return any(self._digest.startswith(prefix) for prefix in role.path_hash_prefixes)
        return any(self._matches(pattern) for pattern in role.paths or ())

    def _matches(self, pattern: str) -> bool:
        patterns = pattern.split("/")
        return len(patterns) == len(self._parts) and all(map(self._part, self._parts, patterns))

    def _part(self, part: str, pattern: str) -> bool:
        if _WILD.isdisjoint(pattern):
            return part == pattern
        if pattern == "*":
            return True
        self._wildcards += len(pattern)
        if self._wildcards > MAX_WILDCARDS:
            raise MetadataError(
                f"{self._path[:200]}: expected delegations with at most {MAX_WILDCARDS} characters of "
                f"path patterns, found more; the repository must delegate by hash bins"
            )
        return fnmatchcase(part, pattern)
