"""What can go wrong on a device."""

from __future__ import annotations

from fleet.errors import CallerError, DeviceError


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
