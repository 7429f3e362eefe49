"""What can go wrong in the registry."""

from __future__ import annotations

from fleet.errors import CallerError, RepositoryError


class NotFoundError(CallerError):
    """Something was named that the registry does not hold."""

    code = "registry.not_found"


class ConflictError(CallerError):
    """What was asked for contradicts what the registry holds."""

    code = "registry.conflict"


class RegistryBusyError(RepositoryError):
    """Another writer held the registry for too long."""

    code = "registry.busy"
    retryable = True
