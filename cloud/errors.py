"""What can go wrong in the cloud."""

from __future__ import annotations

from fleet.errors import CallerError, NetworkError, OutriderError, RepositoryError


class SupervisionError(OutriderError):
    """A child process that cannot be started or is not supervised."""

    code = "cloud.supervision"


class BrokerError(NetworkError):
    """The broker is missing, does not start, or refuses what the cloud asks of it."""

    code = "cloud.broker"


class DataDirError(CallerError):
    """The data directory is not there, is not the cloud's, or is in use."""

    code = "cloud.data_dir"


class EnrolmentError(CallerError):
    """A claim code or certificate request that cannot be honoured."""

    code = "cloud.enrolment"


class TooManyRequestsError(CallerError):
    """A caller that asks too often."""

    code = "cloud.too_many_requests"
    retryable = True


class SettingsError(CallerError):
    """The cloud's own settings are wrong."""

    code = "cloud.settings"


class InputError(CallerError):
    """A request that asks for something that cannot be."""

    code = "cloud.input"


class DeniedError(CallerError):
    """The caller is not known, or may not do this."""

    code = "cloud.denied"


class UnauthenticatedError(DeniedError):
    """No token, or one that is unknown, expired or revoked."""

    code = "cloud.unauthenticated"


class BlobMissingError(RepositoryError):
    """A blob that should be in the store is not there."""

    code = "cloud.blob_missing"


class AdmissionError(CallerError):
    """A connection that the broker must refuse, or a message from somebody who may not send it."""

    code = "cloud.admission"


class CompileError(CallerError):
    """A compile job that could not be done."""

    code = "cloud.compile"


class CompilerDiedError(CompileError):
    """The compiler ended without a word of its own: killed, out of memory, or broken; another try may go better."""

    code = "cloud.compiler_died"
    retryable = True


class WorkerUnknownError(DeniedError):
    """A worker whose session is not in force: it was forgotten, or another process took its name."""

    code = "cloud.worker_unknown"


class WorkerError(CallerError):
    """A worker that cannot start as it was asked to."""

    code = "cloud.worker"


class QueueError(NetworkError):
    """The work queue does not answer, or refuses what is asked of it."""

    code = "cloud.queue"
