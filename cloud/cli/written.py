"""How commands write times, sizes and shares, and how they read durations and labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"b": 1.0, "kbit": 125.0, "mbit": 125e3, "kib": 1024.0, "mib": 1048576.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(kbit|mbit|kib|mib|b)?(?:/s)?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?\Z")


def duration(text: str) -> float:
    """``90``, ``90s``, ``5m``, ``2h`` or ``1d`` in seconds. Raises click.BadParameter."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise click.BadParameter(f"expected a duration like 30s, 5m or 2h, found {text!r}")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def rate(text: str) -> int:
    """``500000``, ``256kbit``, ``10Mbit``, ``512KiB`` or ``2MiB`` (per second) in bytes. Raises click.BadParameter."""
    match = _RATE.match(text.strip())
    if match is None:
        raise click.BadParameter(
            f"expected a rate per second like 256kbit, 10Mbit, 512KiB or 2MiB, found {text!r}"
        )
    return int(float(match[1]) * _UNITS_BYTES[(match[2] or "b").lower()])


def labels(pairs: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` options as a dict. Raises click.BadParameter."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"expected KEY=VALUE, found {pair!r}")
        found[key] = value
    return found


def moment(at: float | None) -> str:
    """A Unix time as local date and time; empty when there is none."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


def size(size_bytes: float) -> str:
    """Bytes in the unit that suits."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def share(part: float) -> str:
    """A share of one in percent."""
    return f"{part * 100:.0f} %"


def listed(pairs: dict[str, object]) -> str:
    """``key=value`` pairs, sorted."""
    return ", ".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def weak_evidence(artifact: dict[str, Any]) -> str:
    """What is to be said of an artifact whose evidence is weak; empty when it is strong."""
    if artifact["evidence"] != "weak":
        return ""
    needed = artifact["samples_needed"]
    return f"weak evidence, {needed} samples would decide" if needed else "weak evidence"
