"""What can go wrong in what fleet members say to each other, split by whose fault it is.

Every error of the project derives from `OutriderError`. It carries a stable `code` (documented in
docs/reference/errors.md, safe to match on) and whether trying again later may help. Its message says
what was expected, what was found, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class OutriderError(Exception):
    """Base of every error that the project raises on purpose."""

    code: ClassVar[str] = "outrider"
    retryable: ClassVar[bool] = False


class CallerError(OutriderError):
    """The caller's fault: bad input, bad configuration, a wrong name."""

    code = "caller"


class DeviceError(OutriderError):
    """The device's fault: disk, memory, runtime, sensors."""

    code = "device"


class NetworkError(OutriderError):
    """The network's fault: lost, late, cut."""

    code = "network"
    retryable = True


class RepositoryError(OutriderError):
    """The repository's or the cloud's fault: metadata, signatures, blobs that do not fit together."""

    code = "repository"


class WireError(NetworkError):
    """A message that does not have the form that the protocol asks for."""

    code = "wire.malformed"
    retryable = False


class SignatureError(RepositoryError):
    """A message or document whose signature, binding or expiry does not hold."""

    code = "wire.signature"


class ManifestError(CallerError):
    """An artifact or model folder whose description is wrong."""

    code = "artifact.manifest"


class UnlistedTransitionError(OutriderError):
    """A state machine met an event that its table does not list for its state; the state is kept."""

    code = "statemachine.unlisted"
