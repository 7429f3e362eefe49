"""The model folder: `outrider.toml` beside a model, described once for calibration, evaluation and the device.

Rules:
- Strict in every key; a mistake names the file, the key, what was expected and what was found.
- Every path that it names lies inside the folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from compiler.errors import FolderError
from compiler.graph import strict
from compiler.graph.strict import Table
from fleet.artifact.manifest import DTYPES, Preprocessing

FILE: Final = "outrider.toml"
METRICS: Final = ("top1", "topk", "auc", "f1", "mae", "mse", "miou", "agreement")
LAYOUTS: Final = ("NHWC->NCHW", "NCHW->NHWC", "NHWC", "NCHW")

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z")


@dataclass(frozen=True, kw_only=True)
class MetricRule:
    """How the model is scored.

    Attributes:
        name: one of `METRICS`, or ``package.module:function``.
        budget: largest loss against the fp32 model that is accepted, in the metric's own units.
        k: of topk.
        output: which output is scored; the first when empty.
        higher_is_better: of a custom metric; the built-in ones know.
    """

    name: str
    budget: float
    k: int = 5
    output: str = ""
    higher_is_better: bool = True

    @property
    def custom(self) -> bool:
        """Whether it is a function of the user's."""
        return ":" in self.name


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A checked description of a model.

    Attributes:
        version: empty when a registry should number it.
        preprocessing: by input name; an input without one takes the model's own tensor.
        max_batch: largest batch that is run at once in calibration and evaluation.
        states: by input that is a state, the output that becomes it at the next step.
    """

    path: Path
    name: str
    version: str
    task: str
    licence: str
    model: Path
    metric: MetricRule
    calibration: Path
    evaluation: Path
    max_batch: int = 64
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    @property
    def toml(self) -> Path:
        """The description itself, for messages."""
        return self.path / FILE


def load(path: Path) -> ModelFolder:
    """Read and check a model folder's description (not yet its model and data).

    Raises:
        FolderError: no folder, no `outrider.toml`, or a mistake in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise FolderError(f"{path}: expected a model folder with {FILE}, found no folder")
    if not (path / FILE).is_file():
        raise FolderError(f"{path}: expected {FILE} in the model folder, found none; write one")
    top = strict.read(path / FILE, error=FolderError)
    data = top.table("data")
    folder = ModelFolder(
        path=path,
        name=_name(top, "name"),
        version=_name(top, "version") if "version" in top.keys() else "",  # noqa: SIM118 - a Table
        task=top.text("task"),
        licence=top.text("licence", default=""),
        model=_file(top, "model", path, default="model.onnx"),
        metric=_metric(top.table("metric")),
        preprocessing=_inputs(top.table("inputs", optional=True)),
        calibration=_file(data, "calibration", path, default="calibration.npz"),
        evaluation=_file(data, "evaluation", path, default="evaluation.npz"),
        max_batch=data.integer("max_batch", default=64, minimum=1),
        states=_states(top.table("states", optional=True)),
    )
    data.done()
    top.done()
    return folder


def _name(table: Table, key: str) -> str:
    expected = "1 to 64 of A-Z a-z 0-9 _ -"
    value = table.text(key, expected=expected)
    if not _NAME.match(value):
        raise table.fail(key, expected, value)
    return value


def _file(table: Table, key: str, folder: Path, *, default: str = "") -> Path:
    expected = "the name of a file in the model folder"
    value = table.text(key, default=default) if default else table.text(key, expected=expected)
    file = folder / value
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        there = inside and file.is_file()
    except (OSError, ValueError):
        inside = there = False
    if not inside:
        raise table.fail(key, expected, value)
    if not there:
        raise table.fail(key, "a file that exists", value)
    return file


def _metric(table: Table) -> MetricRule:
    name = table.text("name")
    if name not in METRICS and not _FUNCTION.match(name):
        raise table.fail("name", f"one of {', '.join(METRICS)}, or package.module:function", name)
    budget = table.number("budget", minimum=0)
    k = table.integer("k", default=5, minimum=1) if name == "topk" else 5
    higher = table.flag("higher_is_better", default=True) if ":" in name else True
    output = table.text("output", default="")
    table.done()
    return MetricRule(name=name, budget=budget, k=k, output=output, higher_is_better=higher)


def _states(table: Table) -> dict[str, str]:
    expected = "the name of the output that becomes this state at the next step"
    found = {name: table.text(name, expected=expected) for name in table.keys()}  # noqa: SIM118 - a Table
    for name, output in found.items():
        if list(found.values()).count(output) > 1:
            raise table.fail(name, "an output that becomes no other state", output)
    return found


def _inputs(table: Table) -> dict[str, Preprocessing]:
    return {name: _preprocessing(table.table(name)) for name in table.keys()}  # noqa: SIM118 - a Table


def _preprocessing(table: Table) -> Preprocessing:
    layout = table.choice("layout", LAYOUTS, default="")
    before, _, after = layout.partition("->")
    rule = Preprocessing(
        raw_dtype=table.choice("dtype", DTYPES, default=""),
        cast=table.choice("cast", DTYPES, default=""),
        subtract=table.numbers("subtract"),
        divide=table.numbers("divide", zero=False),
        raw_layout=before,
        layout=after or before,
    )
    table.done()
    changes = rule.subtract or rule.divide or rule.raw_layout != rule.layout
    if changes and not rule.raw_dtype:
        raise FolderError(
            f"{table.where}: {table.path}.dtype: expected the dtype that applications send, because "
            "subtract, divide or layout apply to it alone, found no such key; add it"
        )
    return rule
