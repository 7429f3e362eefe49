"""The model's inputs with their pre-processing, as the manifest will carry them."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.errors import FolderError
from compiler.graph.folder import ModelFolder
from fleet.artifact.manifest import InputSpec, Preprocessing, TensorSpec

_PERMUTED = {("NHWC", "NCHW"): (0, 2, 3, 1), ("NCHW", "NHWC"): (0, 3, 1, 2)}


def input_specs(folder: ModelFolder, inputs: Sequence[TensorSpec]) -> list[InputSpec]:
    """Join what `outrider.toml` says of each input to what the model says.

    Raises:
        FolderError: an unknown input, or pre-processing that does not fit the model's input.
    """
    known = {spec.name for spec in inputs}
    for name in folder.preprocessing:
        if name not in known:
            raise FolderError(
                f"{folder.toml}: inputs.{name}: expected one of the model's inputs {sorted(known)}, found {name!r}"
            )
    return [
        InputSpec(
            name=spec.name,
            dtype=spec.dtype,
            shape=spec.shape,
            preprocessing=_fit(folder, spec, folder.preprocessing.get(spec.name)),
        )
        for spec in inputs
    ]


def raw_shape(spec: InputSpec) -> list[int | None]:
    """The shape of what applications send: the model's, with its layout undone."""
    rule = spec.preprocessing
    order = _PERMUTED.get((rule.raw_layout, rule.layout)) if rule else None
    return [spec.shape[axis] for axis in order] if order else list(spec.shape)


def _fit(folder: ModelFolder, spec: TensorSpec, rule: Preprocessing | None) -> Preprocessing | None:
    if rule is None or not rule.raw_dtype:
        return None
    where = f"{folder.toml}: inputs.{spec.name}"
    changes = rule.subtract or rule.divide or rule.raw_layout != rule.layout
    if rule.raw_dtype == spec.dtype:
        if changes:
            raise FolderError(
                f"{where}.dtype: expected another dtype than the model's own {spec.dtype}, because an array of "
                f"that dtype is taken as the model's tensor itself, found {rule.raw_dtype!r}; let applications "
                "send another dtype, or do the pre-processing in the model"
            )
        return None
    if rule.layout and len(spec.shape) != 4:
        raise FolderError(
            f"{where}.layout: expected no layout for an input of shape {spec.shape}, found {rule.layout!r}"
        )
    fitted = InputSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape, preprocessing=rule)
    shape = raw_shape(fitted)
    channels = shape[1 if rule.raw_layout == "NCHW" else -1] if len(shape) > 1 else None
    for key, values in (("subtract", rule.subtract), ("divide", rule.divide)):
        if len(values) > 1 and channels is not None and len(values) != channels:
            raise FolderError(
                f"{where}.{key}: expected 1 or {channels} numbers, found {len(values)}"
            )
    return rule
