"""What can go wrong between a repository and a device."""

from __future__ import annotations

from fleet.errors import CallerError, DeviceError, NetworkError, RepositoryError


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


class QuietError(DeviceError):
    """Nothing is fetched now: the assignment names this time of day as quiet hours."""

    code = "transfer.quiet"
    retryable = True


class DeltaError(RepositoryError):
    """A delta or a list of chunks that is damaged, is one of other files, or makes other bytes than the signed ones."""

    code = "ota.delta"


class BundleError(CallerError):
    """A folder on a medium that is no bundle, cannot be read, or holds what no bundle holds."""

    code = "ota.bundle"


class MetadataError(VerificationError):
    """Bytes that are no metadata of the role that was expected, or are longer than it may be."""

    code = "ota.metadata"


class ThresholdError(VerificationError):
    """Metadata signed by fewer of its role's keys than the delegator asks for."""

    code = "ota.threshold"


class DigestError(VerificationError):
    """Bytes whose length or digest is not the one that verified metadata names."""

    code = "ota.digest"


class UnattestedError(VerificationError):
    """An artifact that no compiling host which its release names has attested, or not in this form."""

    code = "ota.unattested"


class WrongDeviceError(VerificationError):
    """An assignment that was signed for another device or tenant."""

    code = "ota.wrong_device"


class ReleaseError(CallerError):
    """A release, model or assignment that cannot be put into metadata."""

    code = "ota.release"


class KeyFileError(CallerError):
    """A key file that is missing, unreadable, or readable by others."""

    code = "ota.key_file"


class SigningError(NetworkError):
    """A hardware module or key service that does not sign."""

    code = "ota.signing"
    retryable = True


class CeremonyError(CallerError):
    """A change of a root that cannot be made, signed or published."""

    code = "ota.ceremony"


class RolloutError(CallerError):
    """A rollout whose description cannot be carried out."""

    code = "ota.rollout"
