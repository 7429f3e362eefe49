"""Does an artifact fit the runtime that a device reports? Engines are tied to one version, other files to a range.

Rules:
- A version is its leading dotted numbers: ``1.23.2+cu12`` is 1.23.2. What does not begin with a number cannot be
  compared, and fits: nobody is sent to rebuild by a text that nobody understands.
- A specifier is what a target's profile says: clauses like ``>=1.20`` or ``<2``, joined by commas.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_CLAUSE = re.compile(r"\s*(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)\s*\Z")
_ENGINES: Final = ("tensorrt",)
_WIDTH = 6


class Built(NamedTuple):
    """What an artifact was built or proven for: its runtime and the versions that count as its own."""

    runtime: str
    versions: tuple[str, ...]


def is_engine(runtime: str) -> bool:
    """Whether files of a runtime are machine code for one version of it."""
    return runtime.startswith(_ENGINES)


def fits(built: Built, found: str, specifier: str) -> bool:
    """Whether an artifact may be expected to run as it was judged.

    Args:
        built: what it was built or proven for.
        found: the version that a device reports.
        specifier: the versions that the target's profile allows; empty where it says nothing.
    """
    have = _numbers(found)
    known = [numbers for version in built.versions if (numbers := _numbers(version)) is not None]
    if have is None or not known:
        return True
    if is_engine(built.runtime):
        return have in known
    return within(found, specifier) and any(have[0] == numbers[0] for numbers in known)


def within(version: str, specifier: str) -> bool:
    """Whether a version meets every clause; a clause that cannot be read is met."""
    have = _numbers(version)
    if have is None:
        return True
    for clause in filter(str.strip, specifier.split(",")):
        match = _CLAUSE.match(clause)
        limit = _numbers(match[2]) if match else None
        if match and limit is not None and not _meets(have, match[1], limit):
            return False
    return True


def _meets(have: tuple[int, ...], sign: str, limit: tuple[int, ...]) -> bool:
    return {
        ">=": have >= limit,
        "<=": have <= limit,
        "==": have == limit,
        "<": have < limit,
        ">": have > limit,
    }[sign]


def _numbers(version: str) -> tuple[int, ...] | None:
    """The leading numbers, padded so that 1.2 and 1.2.0 are the same."""
    match = _NUMBERS.match(version.strip())
    if match is None:
        return None
    numbers = [int(part) for part in match[0].split(".")][:_WIDTH]
    return tuple(numbers + [0] * (_WIDTH - len(numbers)))
