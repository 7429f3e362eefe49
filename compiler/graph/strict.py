"""Strict reading of TOML tables: every key is asked for, checked, and named in errors.

Rules:
- A key that nobody asked for is an error, with the nearest known key.
- Every message names the file, the key, what was expected and what was found.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import tomllib

from fleet.errors import CallerError

MAX_TOML_BYTES: Final = 1 << 20
_REQUIRED: Final[Any] = object()


class Table:
    """A table of a TOML file that knows where it stands.

    Attributes:
        where: the file, for messages.
        path: dotted path of this table in the file.
    """

    def __init__(
        self, where: Path | str, values: dict[str, Any], *, error: type[CallerError], path: str = ""
    ) -> None:
        """Wrap `values`, found at the dotted `path` of the file `where`; mistakes raise `error`."""
        self.where = where
        self._values = values
        self._error = error
        self.path = path
        self._asked: set[str] = set()

    def fail(self, key: str, expected: str, found: object) -> CallerError:
        """The error for a key: what was expected and what was found."""
        shown = repr(found)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return self._error(f"{self.where}: {self._dotted(key)}: expected {expected}, found {shown}")

    def text(self, key: str, *, default: str = _REQUIRED, expected: str = "a text") -> str:
        """A non-empty string."""
        value = self._take(key, default, expected)
        if not isinstance(value, str) or (not value and default is _REQUIRED):
            raise self.fail(key, expected, value)
        return value

    def choice(self, key: str, choices: Sequence[str], *, default: str = _REQUIRED) -> str:
        """One of `choices`."""
        expected = f"one of {', '.join(choices)}"
        value = self._take(key, default, expected)
        if not isinstance(value, str) or value not in (*choices, default):
            raise self.fail(key, expected, value)
        return value

    def number(self, key: str, *, default: float = _REQUIRED, minimum: float = -math.inf) -> float:
        """A finite number of at least `minimum`."""
        expected = "a number" if minimum == -math.inf else f"a number of at least {minimum:g}"
        value = self._take(key, default, expected)
        if not _is_number(value) or value < minimum:
            raise self.fail(key, expected, value)
        return float(value)

    def integer(self, key: str, *, default: int = _REQUIRED, minimum: int = 0) -> int:
        """A whole number of at least `minimum`."""
        expected = f"a whole number of at least {minimum}"
        value = self._take(key, default, expected)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.fail(key, expected, value)
        return value

    def flag(self, key: str, *, default: bool = _REQUIRED) -> bool:
        """True or false."""
        value = self._take(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.fail(key, "true or false", value)
        return value

    def numbers(self, key: str, *, zero: bool = True) -> list[float]:
        """A number, or a list of them (one per channel); an empty list where the key is absent.

        Args:
            key: the key.
            zero: whether 0 is allowed.
        """
        expected = "a number or a list of numbers, one per channel"
        expected += "" if zero else ", none of them 0"
        value = self._take(key, [], expected)
        listed = value if isinstance(value, list) else [value]
        if not all(_is_number(x) for x in listed) or (not zero and 0 in listed):
            raise self.fail(key, expected, value)
        if isinstance(value, list) and not value and key in self._values:
            raise self.fail(key, expected, value)
        return [float(x) for x in listed]

    def texts(self, key: str, *, default: list[str] = _REQUIRED) -> list[str]:
        """A list of non-empty strings."""
        expected = "a list of texts"
        value = self._take(key, default, expected)
        if not isinstance(value, list) or not all(isinstance(x, str) and x for x in value):
            raise self.fail(key, expected, value)
        return list(value)

    def lists(self, key: str, *, optional: bool = False) -> list[list[str]]:
        """A list of non-empty lists of non-empty strings; empty where it is absent and `optional`."""
        expected = "a list of lists of texts"
        value = self._take(key, [] if optional else _REQUIRED, expected)
        sane = isinstance(value, list) and all(
            isinstance(row, list) and row and all(isinstance(x, str) and x for x in row)
            for row in value
        )
        if not sane:
            raise self.fail(key, expected, value)
        found: list[list[str]] = value
        return found

    def table(self, key: str, *, optional: bool = False) -> Table:
        """A table below this one; empty where it is absent and `optional`."""
        value = self._take(key, {} if optional else _REQUIRED, "a table")
        if not isinstance(value, dict):
            raise self.fail(key, "a table", value)
        return Table(self.where, value, error=self._error, path=self._dotted(key))

    def keys(self) -> list[str]:
        """The keys that are there."""
        return list(self._values)

    def raw(self) -> dict[str, Any]:
        """The values themselves; counts as having asked for every key."""
        self._asked |= set(self._values)
        return copy.deepcopy(self._values)

    def done(self) -> None:
        """Raise for the first key that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                known = ", ".join(sorted(self._asked)) or "no key"
                raise self._error(
                    f"{self.where}: {self._dotted(key)}: expected one of the keys {known}, found {key!r}{hint}"
                )

    def _take(self, key: str, default: Any, expected: str) -> Any:
        self._asked.add(key)
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise self._error(
                f"{self.where}: {self._dotted(key)}: expected {expected}, found no such key; add it"
            )
        return default

    def _dotted(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def read(path: Path, *, error: type[CallerError]) -> Table:
    """Parse a TOML file of bounded size.

    Raises:
        error: it cannot be read, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
    except OSError as problem:
        raise error(f"{path}: expected a readable file, found: {problem.strerror}") from None
    if len(data) > MAX_TOML_BYTES:
        raise error(f"{path}: expected at most {MAX_TOML_BYTES} bytes, found more")
    try:
        values = _parsed(data)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{path}: expected TOML, found: {problem}; correct that line") from None
    return Table(path, values, error=error)


@lru_cache(maxsize=128)
def _parsed(data: bytes) -> dict[str, Any]:
    """TOML by its content: one command reads the same catalogs many times, and parsing is most of it."""
    return tomllib.loads(data.decode())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
