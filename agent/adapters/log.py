"""The daemon's log: plain lines on standard error, ``TIME LEVEL CODE field=value text``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

_QUIET = ' \t\n"='


class Log:
    """Writes lines.

    Args:
        stream: where to; standard error when not given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def line(
        self, level: str, code: str, text: str, fields: Mapping[str, str] | None = None
    ) -> None:
        """One line; line breaks in it are escaped."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        parts = [stamp, level.upper(), code]
        parts += [f"{key}={_quoted(value)}" for key, value in (fields or {}).items()]
        if text:
            parts.append(text.replace("\n", "\\n"))
        print(" ".join(parts), file=self._stream, flush=True)


def _quoted(value: str) -> str:
    if not value or any(character in value for character in _QUIET):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return value
