"""A fault at the runtime port: a wrapper that answers wrongly for chosen releases of a model.

It is named in an agent's configuration like any other runtime wrapper
(``runtime_wrapper = "simulator.faults.runtime:wrong_answers"``); the product has no branch for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from agent.runtimes.port import Runtime, Tensors
    from ota.verify.artifact import VerifiedArtifact

RELEASES_VARIABLE = "OUTRIDER_FAULT_RELEASES"
"""Comma-separated releases that are made to fail, for instance ``digits@2``."""


class WrongAnswers:
    """A runtime whose every output is rolled by one place along its last axis."""

    def __init__(self, inner: Runtime) -> None:
        self._inner = inner

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """Infer, and turn the answers wrong."""
        return {name: np.roll(array, 1, axis=-1) for name, array in self._inner.run(feeds).items()}

    def close(self) -> None:
        """Close the real runtime."""
        self._inner.close()


def wrong_answers(runtime: Runtime, artifact: VerifiedArtifact) -> Runtime:
    """Wrap `runtime` when its release stands in ``OUTRIDER_FAULT_RELEASES``."""
    manifest = artifact.package.manifest
    chosen = {name.strip() for name in os.environ.get(RELEASES_VARIABLE, "").split(",")}
    return WrongAnswers(runtime) if f"{manifest.model}@{manifest.version}" in chosen else runtime
