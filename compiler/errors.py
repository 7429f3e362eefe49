"""What can go wrong between a model folder and a proven artifact."""

from __future__ import annotations

from fleet.errors import CallerError, DeviceError


class FolderError(CallerError):
    """`outrider.toml` or the files that it names are wrong."""

    code = "compiler.folder"


class ModelError(CallerError):
    """The ONNX file is damaged, hostile, or uses what no backend can take."""

    code = "compiler.model"


class DataError(CallerError):
    """Calibration or evaluation data do not fit the model."""

    code = "compiler.data"


class MetricError(CallerError):
    """A metric that cannot be found, or that failed on the data."""

    code = "compiler.metric"


class CatalogError(CallerError):
    """A target, recipe or toolchain that is not known, or whose description is wrong."""

    code = "compiler.catalog"


class ToolchainMissingError(CallerError):
    """A toolchain that is not installed on this host."""

    code = "compiler.toolchain_missing"


class ToolchainError(DeviceError):
    """A toolchain that cannot be installed or does not answer."""

    code = "compiler.toolchain"
    retryable = True


class BuildError(DeviceError):
    """A tool failed on one candidate: crash, timeout, out of memory, or junk output."""

    code = "compiler.build"


class EvaluationError(DeviceError):
    """A candidate could not be scored: crash, timeout, out of memory, or junk output."""

    code = "compiler.evaluation"


class OutputError(CallerError):
    """The output folder cannot be written."""

    code = "compiler.output"


class AttestationError(CallerError):
    """A signing key that cannot be used, or an attestation that is missing or about something else."""

    code = "compiler.attestation"


class NothingToProveError(CallerError):
    """There is no artifact of that name in the cloud that could be tried."""

    code = "compiler.nothing_to_prove"
