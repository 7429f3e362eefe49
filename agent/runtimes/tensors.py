"""Between the model's tensors and the file's: checks, permutations, dtypes, quantized ends, batches.

Rules:
- What comes in is held against the manifest strictly; every refusal says which tensor, what was
  expected and what was found.
- What the file has is held against the manifest when it is opened, so that a run never finds out.
- A tensor that needs nothing is passed on without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.errors import InferenceError, LoadError, TensorError
from agent.runtimes.port import Tensors
from fleet.artifact.manifest import Binding, Manifest, TensorSpec

Array = NDArray[np.generic]
Infer = Callable[[dict[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class FileTensor:
    """A tensor as the runtime found it in the file.

    Attributes:
        dtype: numpy name, such as ``float32``.
        scale, zero_point: affine quantization of the whole tensor, ``real = scale * (q - zero_point)``;
            scale 0 means that it has none.
    """

    dtype: str
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class Slot:
    """A tensor of the model, bound to a tensor of the file."""

    spec: TensorSpec
    tensor: str
    file: FileTensor
    permutation: tuple[int, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether integers of the file stand for the model's real numbers."""
        return self.spec.dtype.startswith("float") and not self.file.dtype.startswith("float")

    def to_file(self, array: Array) -> Array:
        """The file's tensor for the model's: permuted, and quantized or cast where dtypes differ."""
        if self.permutation:
            array = array.transpose(self.permutation)
        if self.file.dtype != self.spec.dtype:
            array = _quantize(array, self.file) if self.quantized else _narrow(array, self)
        return np.ascontiguousarray(array)

    def to_model(self, array: Array) -> Array:
        """The model's tensor for the file's: dequantized or cast, then permuted."""
        if self.file.dtype != self.spec.dtype:
            if self.quantized:
                array = (array.astype(np.float32) - self.file.zero_point) * np.float32(
                    self.file.scale
                )
            array = array.astype(self.spec.dtype)
        if self.permutation:
            array = np.ascontiguousarray(array.transpose(self.permutation))
        return array


class Signature:
    """How one artifact's manifest and its file fit together."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        inputs: Mapping[str, FileTensor],
        outputs: Mapping[str, FileTensor],
    ) -> None:
        """Bind the model's tensors to the file's.

        Raises:
            LoadError: a tensor is missing, left over, or of another dtype than the manifest says.
        """
        self.inputs = _bind(manifest.inputs, manifest.input_bindings, inputs, what="input")
        self.outputs = _bind(manifest.outputs, manifest.output_bindings, outputs, what="output")
        self._fixed_batch = manifest.fixed_batch
        left_over = sorted(set(inputs) - {slot.tensor for slot in self.inputs})
        if left_over:
            raise LoadError(
                f"the file asks for inputs {left_over} that the manifest does not name; build the artifact again"
            )

    def run(self, feeds: Tensors, infer: Infer) -> dict[str, Array]:
        """Check `feeds`, run `infer` on the file's tensors (once, or once a sample), map back.

        Raises:
            TensorError: the feeds do not fit the manifest.
            InferenceError: the answers do not.
        """
        batch = check([slot.spec for slot in self.inputs], feeds)
        if not self._fixed_batch or batch is None or batch == 1:
            return self._once(feeds, infer)
        self._check_splittable()
        parts = [
            self._once(
                {
                    slot.spec.name: feeds[slot.spec.name][i : i + 1]
                    if _batched(slot.spec)
                    else feeds[slot.spec.name]
                    for slot in self.inputs
                },
                infer,
            )
            for i in range(batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _once(self, feeds: Tensors, infer: Infer) -> dict[str, Array]:
        answers = infer({slot.tensor: slot.to_file(feeds[slot.spec.name]) for slot in self.inputs})
        outputs = {slot.spec.name: slot.to_model(answers[slot.tensor]) for slot in self.outputs}
        for slot in self.outputs:
            found = outputs[slot.spec.name].shape
            if not _fits(slot.spec.shape, found):
                raise InferenceError(
                    f"output {slot.spec.name!r}: expected shape {_text(slot.spec.shape)}, "
                    f"found {list(found)}; the artifact is not what its manifest says, build it again"
                )
        return outputs

    def _check_splittable(self) -> None:
        whole = [slot.spec.name for slot in self.outputs if not _batched(slot.spec)]
        if whole:
            raise TensorError(
                f"this model takes one sample at a time, because its outputs {whole} have no batch "
                "dimension; send a batch of 1"
            )


def check(specs: Sequence[TensorSpec], feeds: Tensors) -> int | None:
    """Hold `feeds` against the inputs of a manifest.

    Returns:
        The batch: the first dimension of the inputs whose first dimension may vary; None when there
        is no such input.

    Raises:
        TensorError: a name is missing or unknown, or a dtype, rank, dimension or batch does not fit.
    """
    names = {spec.name for spec in specs}
    if names != set(feeds):
        raise TensorError(
            f"expected the inputs {sorted(names)}, found {sorted(feeds)}; send each by its name"
        )
    batch: int | None = None
    for spec in specs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise TensorError(
                f"input {spec.name!r}: expected dtype {spec.dtype}, found {array.dtype}; convert it"
            )
        if not _fits(spec.shape, array.shape):
            raise TensorError(
                f"input {spec.name!r}: expected shape {_text(spec.shape)}, found {list(array.shape)}"
            )
        if _batched(spec):
            batch = _same_batch(spec.name, array.shape[0], batch)
    return batch


def _same_batch(name: str, found: int, expected: int | None) -> int:
    if found == 0:
        raise TensorError(f"input {name!r}: expected a batch of at least 1, found 0")
    if expected is not None and found != expected:
        raise TensorError(
            f"input {name!r}: expected a batch of {expected} as in the inputs before it, found {found}"
        )
    return found


def _bind(
    specs: Sequence[TensorSpec],
    bindings: Sequence[Binding],
    found: Mapping[str, FileTensor],
    *,
    what: str,
) -> list[Slot]:
    by_name = {binding.name: binding for binding in bindings}
    slots = []
    for spec in specs:
        binding = by_name.get(spec.name, Binding(name=spec.name, tensor=spec.name))
        file = found.get(binding.tensor)
        if file is None:
            raise LoadError(
                f"{what} {spec.name!r}: expected a tensor {binding.tensor!r} in the file, "
                f"found {sorted(found)}; build the artifact again"
            )
        expected = binding.file_dtype or spec.dtype
        if file.dtype != expected:
            raise LoadError(
                f"{what} {spec.name!r}: expected the file's tensor {binding.tensor!r} to be {expected}, "
                f"found {file.dtype}; build the artifact again"
            )
        permutation = tuple(binding.permutation)
        if permutation and sorted(permutation) != list(range(len(spec.shape))):
            raise LoadError(
                f"{what} {spec.name!r}: expected a permutation of {len(spec.shape)} axes, found {list(permutation)}"
            )
        slot = Slot(spec=spec, tensor=binding.tensor, file=file, permutation=permutation)
        if slot.quantized and not file.scale:
            raise LoadError(
                f"{what} {spec.name!r}: the file has {file.dtype} for the model's {spec.dtype} and no scale; "
                "build the artifact again"
            )
        slots.append(slot)
    return slots


def _quantize(array: Array, file: FileTensor) -> Array:
    limits = np.iinfo(file.dtype)
    scaled = np.rint(array.astype(np.float32) / np.float32(file.scale)) + file.zero_point
    quantized: Array = np.clip(scaled, limits.min, limits.max).astype(file.dtype)
    return quantized


def _narrow(array: Array, slot: Slot) -> Array:
    cast = array.astype(slot.file.dtype)
    if cast.dtype.kind in "iu" and not np.array_equal(cast.astype(array.dtype), array):
        limits = np.iinfo(slot.file.dtype)
        raise TensorError(
            f"input {slot.spec.name!r}: expected values from {limits.min} to {limits.max} "
            f"(this artifact holds {slot.file.dtype}), found {array.min()} to {array.max()}"
        )
    return cast


def _batched(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] is None


def _fits(expected: Sequence[int | None], found: Sequence[int]) -> bool:
    return len(expected) == len(found) and all(
        e is None or e == f for e, f in zip(expected, found, strict=True)
    )


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"
