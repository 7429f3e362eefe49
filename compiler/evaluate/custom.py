"""A user's own metric: ``package.module:function``, called as ``metric(run, data) -> float``.

`run` takes and returns ``{name: array}`` in the model's own terms; an array of the raw dtype is
pre-processed as on the device. `data` holds the arrays of the evaluation file. The module may stand in
the model folder. It is imported in the evaluation's child process only.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.errors import MetricError
from compiler.graph.folder import ModelFolder
from fleet.errors import OutriderError

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def score(folder: ModelFolder, run: Run, data: Mapping[str, Array]) -> float:
    """Call the folder's metric.

    Raises:
        MetricError: it cannot be imported, raises, or returns no finite number.
    """
    name = folder.metric.name
    function = _find(folder.path, name)
    try:
        value = float(function(run, dict(data)))
    except OutriderError:
        raise
    except Exception as error:  # the function is the user's
        raise MetricError(
            f"metric {name!r} raised {type(error).__name__}: {error}; correct the function"
        ) from error
    if not math.isfinite(value):
        raise MetricError(f"metric {name!r}: expected a finite number, found {value}")
    return value


def _find(folder: Path, name: str) -> Callable[[Run, dict[str, Array]], float]:
    module, _, function = name.partition(":")
    sys.path.insert(0, str(folder.resolve()))
    try:
        found: Callable[[Run, dict[str, Array]], float] = getattr(
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
