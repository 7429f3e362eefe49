"""What can go wrong on a device."""

from __future__ import annotations

from fleet.errors import CallerError, DeviceError, NetworkError, RepositoryError


class RuntimeMissingError(DeviceError):
    """The runtime that an artifact asks for is not installed on this device."""

    code = "runtime.missing"


class LoadError(DeviceError):
    """The runtime refused the artifact."""

    code = "runtime.load"


class InferenceError(DeviceError):
    """The runtime failed on a request."""

    code = "runtime.inference"


class TensorError(CallerError):
    """A request whose tensors do not fit the model's signature."""

    code = "serving.tensor"


class ConfigError(CallerError):
    """The agent's configuration is wrong."""

    code = "agent.config"


class WorkerLostError(DeviceError):
    """A worker process died, hung or answered junk."""

    code = "serving.worker_lost"
    retryable = True


class SelfTestError(DeviceError):
    """A candidate's golden vectors did not come out as they should on this device."""

    code = "agent.self_test"


class ProbationError(DeviceError):
    """A candidate that was activated failed on real requests."""

    code = "agent.probation"


class LoopError(DeviceError):
    """An update was interrupted by restarts too often."""

    code = "agent.loop"


class EngineError(DeviceError):
    """This device could not build an engine: TensorRT refused the model, or failed."""

    code = "build.failed"


class BuildMemoryError(EngineError):
    """Too little memory is free to build an engine."""

    code = "build.memory"
    retryable = True


class BuildTimeoutError(EngineError):
    """A build took longer than the configuration allows."""

    code = "build.timeout"


class BuildCancelledError(EngineError):
    """A build was ended because it is not wanted any more."""

    code = "build.cancelled"


class BuildLostError(EngineError):
    """The process that built an engine died, or answered junk."""

    code = "build.lost"
    retryable = True


class EngineMissingError(DeviceError):
    """An engine that this device built is gone from its cache, or is not the one that it attested."""

    code = "build.engine"


class SupersededError(DeviceError):
    """An update was given up for a newer assignment."""

    code = "agent.superseded"


class LateError(DeviceError):
    """An artifact whose activation came after the time that its assignment allows."""

    code = "agent.late"


class IncompatibleError(DeviceError):
    """This device's hardware or runtimes cannot run the artifact."""

    code = "agent.incompatible"


class ContentError(RepositoryError):
    """An artifact that describes itself otherwise than its signed metadata does."""

    code = "agent.content"


class DiskError(DeviceError):
    """The disk could not be read or written."""

    code = "disk.io"
    retryable = True


class DiskFullError(DiskError):
    """No room is left on the disk."""

    code = "disk.full"


class DamagedError(DeviceError):
    """A file of the daemon's state does not hold what was written."""

    code = "disk.damaged"


class EnrolmentError(CallerError):
    """The device is not enrolled, or its enrolment was refused."""

    code = "agent.enrolment"


class RenewalError(DeviceError):
    """The cloud refuses to renew this device's certificate: it was revoked, or enrolled anew elsewhere."""

    code = "identity.refused"


class RunningError(CallerError):
    """Another daemon runs on the same state directory."""

    code = "agent.running"


class LinkError(NetworkError):
    """The cloud could not be reached, or what answered is not it."""

    code = "link.unreachable"


class NoSourceError(DeviceError):
    """An engine was ordered of an artifact that this device does not run."""

    code = "agent.no_source"


class NoBuilderError(DeviceError):
    """An engine was ordered of a device that builds none."""

    code = "agent.no_builder"
