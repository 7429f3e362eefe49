"""What can go wrong between a repository and a device."""

from __future__ import annotations

from fleet.errors import DeviceError, NetworkError, RepositoryError


class VerificationError(RepositoryError):
    """Metadata or bytes that do not hold: signature, threshold, version, expiry, length, digest."""

    code = "ota.verification"


class MismatchError(VerificationError):
    """The director and the image repository do not agree on a target."""

    code = "ota.mismatch"


class ExpiredError(VerificationError):
    """Metadata that has expired by trusted time."""

    code = "ota.expired"
    retryable = True


class RollbackRefusedError(VerificationError):
    """Metadata or a release older than what this device may go back to."""

    code = "ota.rollback_refused"


class TransferError(NetworkError):
    """Blocks that do not make the signed blob."""

    code = "ota.transfer"


class SpaceError(DeviceError):
    """Not enough free space for what should be fetched."""

    code = "ota.space"
    retryable = True
