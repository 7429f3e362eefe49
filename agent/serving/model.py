"""A loaded model: from request bytes to answer bytes.

Rules:
- Everything here but `statistics` runs on the worker's inference thread, parsing and encoding of
  tensors included, so that a large request does not hold the event loop.
- Whether an input is raw (and is pre-processed) or the model's own tensor is decided by its dtype:
  `fleet.artifact.preprocess.is_raw`.
- A plug-in's or a runtime's own exception becomes `InferenceError`; nothing else gets out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import InferenceError, TensorError
from agent.runtimes import registry
from agent.runtimes.port import Runtime, Tensors
from agent.serving import selftest
from agent.serving.oip import documents, messages
from agent.serving.oip.http import Response
from agent.serving.port import SelfTest
from agent.serving.statistics import Statistics, Timing
from fleet.artifact import preprocess
from fleet.artifact.manifest import InputSpec
from fleet.errors import OutriderError
from ota.verify.artifact import VerifiedArtifact

Array = NDArray[np.generic]


class ServedModel:
    """An open runtime with its manifest and statistics, under the name that it is served by."""

    def __init__(
        self, artifact: VerifiedArtifact, runtime: Runtime, *, name: str, version: str
    ) -> None:
        """Take over an open runtime.

        Raises:
            LoadError: the manifest does not fit itself.
        """
        self.manifest = artifact.package.manifest
        self.name = name
        self.version = version
        self.statistics = Statistics(self.manifest)
        self._golden = msgspec.structs.replace(
            artifact.package, payload=b""
        )  # loaded: not held twice
        self._runtime = runtime

    def self_test(self) -> SelfTest:
        """The golden vectors through the runtime."""
        result = selftest.run(_Guarded(self._runtime), self._golden)
        facts = {
            "runtime": self.manifest.runtime,
            "runtime_version": registry.version(self.manifest.runtime),
        }
        return msgspec.structs.replace(result, facts={**facts, **result.facts})

    def close(self) -> None:
        """Free the runtime."""
        self._runtime.close()

    def infer(
        self, body: bytearray, header_length: bytes | None, arrived_ns: int
    ) -> tuple[Response, Callable[[], None]]:
        """Answer one request.

        Returns:
            The answer, and what to do once it is on its way.

        Raises:
            TensorError: the request must be mended by its sender.
            InferenceError: the model failed.
        """
        started_ns = time.monotonic_ns()
        request = messages.decode_infer(body, header_length)
        feeds = self._tensors(request.inputs)
        try:
            outputs = _Guarded(self._runtime).run(feeds)
        except InferenceError:
            self.statistics.failed(Timing(arrived_ns, started_ns, time.monotonic_ns()))
            raise
        answer = messages.InferAnswer(self.name, self.version, request.id, outputs)
        response = messages.encode_infer(answer, request)
        timing = Timing(arrived_ns, started_ns, time.monotonic_ns())
        self.statistics.answered(self._samples(feeds), timing)
        return response, lambda: self.statistics.watch(feeds, outputs)

    def _tensors(self, arrays: dict[str, Array]) -> dict[str, Array]:
        specs = {spec.name: spec for spec in self.manifest.inputs}
        return {
            name: _tensor(specs[name], array) if name in specs else array
            for name, array in arrays.items()
        }

    def _samples(self, feeds: Tensors) -> int:
        """Samples of a batch: the first dimension where it may vary, else one."""
        for spec in self.manifest.inputs:
            if spec.shape and spec.shape[0] is None:
                return int(feeds[spec.name].shape[0])
        return 1


class _Guarded:
    """A runtime whose foreign exceptions are ours."""

    def __init__(self, inner: Runtime) -> None:
        self._inner = inner

    def run(self, feeds: Tensors) -> dict[str, Array]:
        try:
            return self._inner.run(feeds)
        except OutriderError:
            raise
        except Exception as error:
            raise InferenceError(f"the runtime failed: {error!r}") from error

    def close(self) -> None:
        self._inner.close()


def _tensor(spec: InputSpec, array: Array) -> Array:
    """The model's tensor for what was sent."""
    if not preprocess.is_raw(spec, array.dtype.name):
        return array
    shape = documents.raw_shape(spec)
    fits = len(shape) == array.ndim and all(
        e is None or e == f for e, f in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise TensorError(
            f"input {spec.name!r}: expected raw data of shape "
            f"{[-1 if n is None else n for n in shape]}, found {list(array.shape)}"
        )
    return preprocess.tensor_of(spec, array)
