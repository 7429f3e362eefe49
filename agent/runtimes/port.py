"""The runtime port: what the agent, the compiler and the CLI ask of an inference runtime.

Rules:
- A runtime is opened with a `VerifiedArtifact` only; there is no other door.
- `run` speaks the model's own terms (names, shapes, layouts, dtypes of the manifest); each adapter
  maps them to its file through the manifest's bindings, and splits a batch where the file takes one
  sample at a time.
- One runtime object serves one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ota.verify.artifact import VerifiedArtifact

Tensors = Mapping[str, NDArray[np.generic]]


class Runtime(Protocol):
    """A loaded model."""

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """Infer one batch.

        Args:
            feeds: every input of the manifest by name, as the model takes it (after pre-processing).

        Raises:
            TensorError: a name, shape or dtype does not fit the manifest.
            InferenceError: the runtime failed.
        """

    def close(self) -> None:
        """Free the model's memory; further calls are errors of the programmer."""


class Options:
    """How to open a runtime.

    Attributes:
        threads: number of intra-operator threads; 0 lets the runtime choose.
        exact: judge the artifact rather than this host's kernels: graph optimizations off (ONNX
            Runtime), reference kernels (LiteRT).
    """

    __slots__ = ("exact", "threads")

    def __init__(self, *, threads: int = 1, exact: bool = False) -> None:
        self.threads = threads
        self.exact = exact


Opener = Callable[[VerifiedArtifact, Options], Runtime]
Wrapper = Callable[[Runtime, VerifiedArtifact], Runtime]
"""A plug-in around a runtime, named in the agent's configuration (``runtime_wrapper``)."""
