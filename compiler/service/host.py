"""What this host is, as far as it colours figures."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def _cpu() -> tuple[str, frozenset[str]]:
    """Model name and feature flags of the first processor, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "", frozenset()
    pairs = [line.partition(":") for line in lines]
    found = {key.strip(): value.strip() for key, _, value in reversed(pairs) if value}
    flags = found.get("flags", found.get("Features", ""))
    return found.get("model name", ""), frozenset(flags.split())


def saturates() -> bool:
    """Whether int8 sums of optimized kernels overflow 16 bits here: x86-64 with AVX2 and no VNNI."""
    _, flags = _cpu()
    return "avx2" in flags and not flags & {"avx_vnni", "avx512_vnni"}


def describe() -> dict[str, str]:
    """For the report."""
    name, _ = _cpu()
    return {
        "machine": platform.machine(),
        "processor": name,
        "system": platform.system(),
        "python": platform.python_version(),
        "int8_kernels": "saturating" if saturates() else "exact",
    }
