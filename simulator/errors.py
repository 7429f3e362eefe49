"""What can go wrong in a simulation."""

from __future__ import annotations

from fleet.errors import OutriderError


class ViolationError(OutriderError):
    """Something happened in a simulated world that must never happen."""

    code = "sim.violation"
