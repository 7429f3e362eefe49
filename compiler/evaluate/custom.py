"""A user's own metric: ``package.module:function``, called as ``metric(run, data)``.

`run` takes and returns ``{name: array}`` in the model's own terms; an array of the raw dtype is
pre-processed as on the device. `data` holds the arrays of the evaluation file. The module may stand in
the model folder. It is imported in the evaluation's child process only.

The function returns the metric as one number; or an array with a row of statistics per sample, which the
function's attribute ``reduce(rows) -> float`` makes the metric of (their mean when it has none). From
rows the loss gets an interval, and the samples can be divided; from one number they cannot.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import MetricError
from compiler.evaluate.metrics import BuiltIn
from compiler.graph.folder import ModelFolder
from fleet.errors import OutriderError

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def score(
    folder: ModelFolder, run: Run, data: Mapping[str, Array]
) -> tuple[float, Floats | None, BuiltIn]:
    """Call the folder's metric.

    Returns:
        The metric over all samples, the rows where it gives them, and how rows are reduced.

    Raises:
        MetricError: it cannot be imported, raises, or returns no finite number.
    """
    name = folder.metric.name
    function = _find(folder.path, name)
    reduce: Callable[[Floats], float] = getattr(function, "reduce", _mean)

    def reduced(rows: Floats) -> float:
        return float(_guarded(name, reduce, rows))

    answer = _guarded(name, function, run, dict(data))
    kind = BuiltIn(_no_statistic, reduced, higher_is_better=folder.metric.higher_is_better)
    if isinstance(answer, np.ndarray) and answer.ndim >= 1:
        rows = answer.astype(np.float64)
        return _finite(name, reduced(rows)), rows, kind
    return _finite(name, _guarded(name, float, answer)), None, kind


def _guarded(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except OutriderError:
        raise
    except Exception as error:  # the function is the user's
        raise MetricError(
            f"metric {name!r} raised {type(error).__name__}: {error}; correct the function"
        ) from error


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise MetricError(f"metric {name!r}: expected a finite number, found {value}")
    return value


def _mean(rows: Floats) -> float:
    return float(rows.mean())


def _no_statistic(*_: Any) -> Floats:
    raise AssertionError("a custom metric makes its rows itself")


def _find(folder: Path, name: str) -> Callable[[Run, dict[str, Array]], Any]:
    module, _, function = name.partition(":")
    sys.path.insert(0, str(folder.resolve()))
    try:
        found: Callable[[Run, dict[str, Array]], Any] = getattr(
            importlib.import_module(module), function
        )
    except Exception as error:  # importing runs the user's code
        raise MetricError(
            f"metric {name!r}: expected an importable function, found {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(folder.resolve()))
    if not callable(found):
        raise MetricError(f"metric {name!r}: expected a function, found {type(found).__name__}")
    return found
