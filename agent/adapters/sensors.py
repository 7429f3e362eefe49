"""The system's sensors, as far as this machine has them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import psutil

_MIB = 1 << 20


def read(state_dir: Path) -> dict[str, float]:
    """Figures by name with unit; what the machine cannot tell is left out."""
    memory = psutil.virtual_memory()
    figures = {
        "cpu_percent": psutil.cpu_percent(interval=None),
        "memory_total_mib": memory.total / _MIB,
        "memory_available_mib": memory.available / _MIB,
        "agent_memory_mib": psutil.Process().memory_info().rss / _MIB,
        "sqlite_version_number": _sqlite_version_number(),
    }
    with contextlib.suppress(OSError):
        figures["load_1min"] = os.getloadavg()[0]
    with contextlib.suppress(OSError):
        figures["disk_free_mib"] = psutil.disk_usage(str(state_dir)).free / _MIB
    temperature_c = _hottest()
    if temperature_c is not None:
        figures["temperature_c"] = temperature_c
    return {name: round(value, 3) for name, value in figures.items()}


def _sqlite_version_number() -> float:
    """SQLite's version in the form of its C macro ``SQLITE_VERSION_NUMBER``."""
    major, minor, patch = sqlite3.sqlite_version_info
    return float(major * 1_000_000 + minor * 1_000 + patch)


def _hottest() -> float | None:
    """The hottest thermal sensor, in degrees Celsius."""
    with contextlib.suppress(OSError, AttributeError):
        found = psutil.sensors_temperatures()
        degrees = [entry.current for entries in found.values() for entry in entries]
        plausible = [value for value in degrees if -50 < value < 200]
        return max(plausible) if plausible else None
    return None
