"""The manifest of an artifact: everything that a device needs to run it as its author meant.

Rules:
- The names, shapes, layouts and dtypes in `inputs` and `outputs` are the source model's own; what a
  converter permuted or renamed is undone through `Binding`.
- ``None`` in a shape is a dimension that may vary; `fixed_batch` says that the file takes one
  sample at a time although the model's first dimension varies.
"""

from __future__ import annotations

import re

import msgspec

from fleet.errors import ManifestError
from fleet.telemetry.histogram import Histogram

FORMAT = "outrider/artifact/1"

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip

RESERVED_MEMBERS = ("manifest.json", "golden.npz", "attestation.json")
_MEMBER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the manifest's parts."""


class Preprocessing(Struct, frozen=True):
    """What turns an application's raw array into the model's tensor, in this order.

    ``tensor = transpose((raw.astype(cast) - subtract) / divide, layout)``

    Attributes:
        raw_dtype: dtype that applications send.
        cast: dtype to compute in; the model's own when empty.
        subtract, divide: one number, or one per channel (last axis of the raw array for NHWC, the
            first after the batch for NCHW).
        raw_layout, layout: ``NHWC``, ``NCHW`` or empty when the axes stay as they are.
    """

    raw_dtype: str = ""
    cast: str = ""
    subtract: list[float] = []
    divide: list[float] = []
    raw_layout: str = ""
    layout: str = ""


class TensorSpec(Struct, frozen=True):
    """One input or output of the model, in the model's own terms."""

    name: str
    dtype: str
    shape: list[int | None]


class InputSpec(TensorSpec, frozen=True):
    """An input and its pre-processing; none means that applications send the tensor itself."""

    preprocessing: Preprocessing | None = None


class Binding(Struct, frozen=True):
    """How a tensor of the file stands for a tensor of the model.

    Attributes:
        name: the tensor's name in the model.
        tensor: its name in the file.
        permutation: ``file = transpose(model, permutation)`` for inputs; for outputs
            ``model = transpose(file, permutation)``. Empty: as it is.
        file_dtype: the dtype of the file's tensor when it differs from the model's.
    """

    name: str
    tensor: str
    permutation: list[int] = []
    file_dtype: str = ""


class Payload(Struct, frozen=True):
    """The member of the package that a runtime loads."""

    member: str
    sha256: str
    size_bytes: int


class Tolerance(Struct, frozen=True):
    """How far the answers on the golden vectors may lie from the fp32 ones, over all outputs."""

    cosine_min: float
    max_abs: float


class Metric(Struct, frozen=True):
    """The task metric on the held-out split: this artifact's, and the fp32 model's."""

    name: str
    value: float
    reference: float
    higher_is_better: bool = True


class Feature(Struct, frozen=True):
    """A scalar that is watched, with its distribution on reference data.

    Attributes:
        name: see `fleet.telemetry.features`; for instance ``input:image:mean``.
        reference: histogram over the reference's own quantile edges.
        thresholds: detector threshold by window size (samples), calibrated on reference windows.
    """

    name: str
    reference: Histogram
    thresholds: dict[int, float] = {}


class Manifest(Struct, frozen=True):
    """Everything about an artifact but its bytes.

    Attributes:
        evidence: whether the interval of the metric's loss lies within the budget (strong), or only the
            measured loss does (weak).
        samples_needed: how many evaluation samples would decide, where the evidence is weak and that many would.
    """

    format: str
    model: str
    version: str
    task: str
    target: str
    hardware_classes: list[str]
    runtime: str
    runtime_version: str
    recipe: str
    source_sha256: str
    inputs: list[InputSpec]
    outputs: list[TensorSpec]
    payload: Payload
    tolerance: Tolerance
    metric: Metric
    status: str
    evidence: str = "strong"
    samples_needed: int | None = None
    input_bindings: list[Binding] = []
    output_bindings: list[Binding] = []
    fixed_batch: bool = False
    features: list[Feature] = []
    latency_ms_p50: float = 0.0
    latency_ms_p95: float = 0.0
    peak_memory_mib: float = 0.0
    licence: str = ""


def encode(manifest: Manifest) -> bytes:
    """The manifest as it stands in a package: JSON, the same bytes for the same content."""
    # The encoder sorts text keys only; window sizes are numbers until `to_builtins` writes them out.
    return msgspec.json.encode(msgspec.to_builtins(manifest, str_keys=True), order="deterministic")


def decode(data: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: not JSON, a field missing or of a wrong type, or a format this version does not know.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest.json: {error}; the artifact must be built again") from None
    if manifest.format != FORMAT:
        raise ManifestError(
            f"manifest.json: format: expected {FORMAT!r}, found {manifest.format!r}; update this program",
        )
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """What types alone do not say."""
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.dtype not in DTYPES:
            raise ManifestError(
                f"manifest.json: {spec.name}.dtype: expected one of {', '.join(DTYPES)}, found {spec.dtype!r}"
            )
    for what, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise ManifestError(f"manifest.json: {what}: expected each name once, found {names}")
    member = manifest.payload.member
    if not _MEMBER.match(member) or member in RESERVED_MEMBERS:
        raise ManifestError(
            f"manifest.json: payload.member: expected a plain file name other than "
            f"{', '.join(RESERVED_MEMBERS)}, found {member!r}"
        )
    for feature in manifest.features:
        edges, counts = feature.reference.edges, feature.reference.counts
        if len(counts) != len(edges) + 1:
            raise ManifestError(
                f"manifest.json: features: {feature.name}: expected {len(edges) + 1} counts for "
                f"{len(edges)} edges, found {len(counts)}"
            )
