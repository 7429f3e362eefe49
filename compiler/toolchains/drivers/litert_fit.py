"""Which tensor of a converted file is which of the model's, and whether the file answers as the model does.

Laid beside the driver ``litert``. The reference is ONNX Runtime; see `litert_layout` for how orders of axes are told.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import litert_layout as layout
import numpy as np
from litert_file import LiteRtFile, interpreter, quantized
from litert_layout import Feed, Order

SEED: Final = 20
_TRIAL_S: Final = 120


class ConversionError(RuntimeError):
    """A model that this toolchain cannot turn into a file."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the tensors of a file stand for those of the model.

    Attributes:
        difference: the largest of any output over all samples and probes, relative to its range.
        kernels: those that the file was judged with, ``default`` or ``reference``.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    difference: float
    kernels: str


class Reference:
    """The ONNX model in ONNX Runtime, and what it says to samples and probes."""

    def __init__(self, model: Any, samples: Sequence[Feed], declared: dict[str, list[int]]) -> None:
        """Run a model over samples, and over probes where it takes them.

        Args:
            model: with inputs of fixed shape.
            samples: feeds of one shape.
            declared: shapes that outputs must have, where the model says them.

        Raises:
            ConversionError: ONNX Runtime cannot run the model.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            self.feeds = list(samples)
            self.answers = [self.run(sample) for sample in samples]
        except Exception as error:  # noqa: BLE001 - native errors of many classes
            raise ConversionError(f"ONNX Runtime cannot run the model: {said(error)}") from None
        self.inputs = [node.name for node in self._session.get_inputs()]
        self.outputs = [node.name for node in self._session.get_outputs()]
        self._declared = dict(declared)
        tensors = [*samples[0].values(), *self.answers[0].values()]
        floats = all(array.dtype.kind == "f" for array in tensors)
        many = layout.PROBES if floats else layout.DISCRETE_PROBES
        for forms in layout.probe_feeds(samples, SEED, many):
            for feed in forms:
                if self._take(feed):
                    break

    def _take(self, feed: Feed) -> bool:
        try:
            answer = self.run(feed)
        except Exception:  # noqa: BLE001 - not every value is an input that the model takes
            return False
        if any(list(answer[n].shape) != shape for n, shape in self._declared.items()):
            return False  # not every value is one that keeps the model's own word
        self.feeds.append(feed)
        self.answers.append(answer)
        return True

    def run(self, feed: Feed) -> dict[str, Any]:
        """The model's outputs by name."""
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, feed), strict=True))

    def feels(self, name: str) -> bool:
        """Whether any probe shows that the outputs depend on an input's values."""
        for feed, answer in zip(self.feeds, self.answers, strict=True):
            for other in self.feeds:
                if other is feed:
                    continue
                try:
                    changed = self.run({**feed, name: other[name]})
                except Exception:  # noqa: BLE001, S112 - as above
                    continue
                if any(layout.varies([answer[o], changed[o]]) for o in self.outputs):
                    return True
        return False


def said(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, SystemExit):
        return "onnx2tf gave up without a reason"
    known = isinstance(error, ConversionError)
    first = lines[0][:400] if lines else "no reason given"
    return first if known else f"{type(error).__name__}: {first}"


def fit(content: bytes, reference: Reference, keep: Sequence[str]) -> Fit:
    """Find which tensor is which and in which order of axes; the answers must agree.

    Raises:
        ConversionError: no order does, or it cannot be told which one.
    """
    endure(content, lambda: _fit(content, reference, keep, kernels="default"))
    found = _fit(content, reference, keep, kernels="default")
    if found.difference > layout.TOLERANCE:
        # Fused and vectorized kernels round elsewhere; the file itself may still be right.
        exact = _fit(content, reference, keep, kernels="reference")
        found = min(found, exact, key=lambda one: one.difference)
    if found.difference > layout.TOLERANCE:
        raise ConversionError(
            f"the file's answers differ from ONNX Runtime's by {found.difference:.2g} of their range, "
            f"expected at most {layout.TOLERANCE:.0e}"
        )
    return found


def endure(content: bytes, trial: Callable[[], object]) -> None:
    """Run a file in a process of its own first, if it has types that some kernels abort on.

    Kernels for 8- and 16-bit integers take them for quantized numbers, and end the process when they have no scale.

    Raises:
        ConversionError: the process ended by a signal.
    """
    odd = LiteRtFile(content).unscaled
    if not odd:
        return
    child = os.fork()
    if child == 0:
        with contextlib.suppress(Exception):
            signal.alarm(_TRIAL_S)
            trial()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        raise ConversionError(
            f"LiteRT ends with {signal.Signals(-status).name} on it; it has tensors of {', '.join(odd)}"
        )


def _fit(content: bytes, reference: Reference, keep: Sequence[str], *, kernels: str) -> Fit:
    runs = interpreter(content, reference=kernels == "reference")
    inputs = match(reference.inputs, runs.get_input_details())
    outputs = match(reference.outputs, runs.get_output_details())
    choices = input_choices(inputs, reference.feeds[0], keep)
    best = Fit(inputs=[], outputs=[], difference=float("inf"), kernels=kernels)
    rivals = []
    for chosen in layout.combinations(choices):
        bound = _bind(runs, inputs, outputs, chosen, reference, kernels)
        if bound.difference < best.difference and best.difference > layout.TOLERANCE:
            best = bound
        if bound.difference <= layout.TOLERANCE:
            rivals.append(chosen)
    for name in _undecided(rivals):
        if not reference.feels(name):
            raise ConversionError(
                f"input {name}: expected probes to tell the order of its axes "
                f"{list(reference.feeds[0][name].shape)}, found answers that do not depend on it"
            )
    return best


def input_choices(
    inputs: dict[str, dict[str, Any]], sample: Feed, keep: Sequence[str]
) -> dict[str, list[Order]]:
    """Orders of axes that each input may have in the file.

    Raises:
        ConversionError: none fits, or too many do.
    """
    choices = {}
    for name, detail in inputs.items():
        fitting = layout.orders(sample[name].shape, tuple(detail["shape"]))
        if not fitting:
            raise ConversionError(
                f"input {name}: expected the shape {list(sample[name].shape)} in some order, found "
                f"{list(detail['shape'])} in the file"
            )
        choices[name] = fitting[:1] if name in keep else fitting
    if layout.count(choices) > layout.MAX_COMBINATIONS:
        raise ConversionError(
            f"expected at most {layout.MAX_COMBINATIONS} ways to order the axes of the inputs, found "
            f"{layout.count(choices)}"
        )
    return choices


def _bind(
    runs: Any,
    inputs: dict[str, dict[str, Any]],
    outputs: dict[str, dict[str, Any]],
    chosen: dict[str, Order],
    reference: Reference,
    kernels: str,
) -> Fit:
    """The file bound with these orders of its inputs, and the best ones of its outputs."""
    answers = []
    for feed, expected in zip(reference.feeds, reference.answers, strict=True):
        answers.append(run(runs, inputs, outputs, chosen, feed))
        if all(layout.best_order([answers[-1][o]], [expected[o]])[1] > 1.0 for o in outputs):
            break  # nothing like it: the other samples need not run
    bindings, worst = [], 0.0
    for name, detail in outputs.items():
        expected_ = [answer[name] for answer in reference.answers[: len(answers)]]
        order, difference, agreeing = layout.best_order([a[name] for a in answers], expected_)
        if order is None:
            raise ConversionError(
                f"output {name}: expected the shape {list(expected_[0].shape)} in some order, found "
                f"{list(answers[0][name].shape)} in the file"
            )
        if len(agreeing) > 1 and difference <= layout.TOLERANCE and not layout.varies(expected_):
            _require_constant(name, expected_[0], agreeing)
        worst = max(worst, difference)
        bindings.append(binding(name, detail, order))
    return Fit(
        inputs=[binding(name, inputs[name], chosen[name]) for name in inputs],
        outputs=bindings,
        difference=worst,
        kernels=kernels,
    )


def _require_constant(name: str, value: Any, agreeing: Sequence[Order]) -> None:
    """An output that never changes has the same value in all orders that agree, or it cannot be told."""
    if any(not np.array_equal(value, value.transpose(order)) for order in agreeing if order):
        raise ConversionError(
            f"output {name}: expected probes to tell the order of its axes {list(value.shape)}, "
            "found an answer that never changes"
        )


def _undecided(rivals: Sequence[dict[str, Order]]) -> list[str]:
    """Inputs that have more than one order among the combinations that agree."""
    return [name for name in (rivals[0] if rivals else {}) if len({r[name] for r in rivals}) > 1]


def match(names: list[str], details: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Details of the file's tensors by the model's names: by name where they are kept, else in order.

    Raises:
        ConversionError: there are not as many.
    """
    if len(names) != len(details):
        raise ConversionError(
            f"expected {len(names)} tensors {names}, found {[d['name'] for d in details]} in the file"
        )
    by_name = {bare(detail["name"]): detail for detail in details}
    if set(by_name) == set(names):
        return {name: by_name[name] for name in names}
    return dict(zip(names, details, strict=True))


def bare(name: str) -> str:
    """A tensor's name without what a signature puts around it."""
    return name.removeprefix("serving_default_").removesuffix(":0")


def run(
    runs: Any,
    inputs: dict[str, dict[str, Any]],
    outputs: dict[str, dict[str, Any]],
    chosen: dict[str, Order],
    feed: Feed,
) -> dict[str, Any]:
    """The file's raw answers to one sample."""
    for name, detail in inputs.items():
        array = np.ascontiguousarray(feed[name].transpose(chosen[name]))
        runs.set_tensor(detail["index"], quantized(array, detail))
    runs.invoke()
    return {name: runs.get_tensor(detail["index"]) for name, detail in outputs.items()}


def binding(name: str, detail: dict[str, Any], order: Order) -> dict[str, Any]:
    """A binding as the manifest has it."""
    plain = list(order) == list(range(len(order)))
    return {
        "name": name,
        "tensor": detail["name"],
        "permutation": [] if plain else list(order),
        "file_dtype": np.dtype(detail["dtype"]).name,
    }
