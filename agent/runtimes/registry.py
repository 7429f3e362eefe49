"""Which runtimes this host has, and the one way to open an artifact.

Rules:
- Asking what is available imports no runtime: a report costs milliseconds and no memory.
- A runtime that is missing or broken is a reason in the report and an error of ours on opening.
- A plug-in around a runtime is named by configuration only; no artifact can ask for one.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from types import MappingProxyType

from agent.errors import ConfigError, LoadError, RuntimeMissingError
from agent.runtimes import cuda, litert, onnxruntime, tensorrt
from agent.runtimes.port import Opener, Options, Runtime
from fleet.wire.messages import RuntimeInfo
from ota.verify.artifact import VerifiedArtifact

_PLUG_IN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_DEFAULTS = Options()


@dataclass(frozen=True)
class _Entry:
    """A runtime that this version of the agent knows.

    Attributes:
        modules: any of them will do.
        distributions: where its version is found.
        hint: how to get it.
        besides: of these modules it needs one, too.
    """

    opener: Opener
    modules: Sequence[str]
    distributions: Sequence[str]
    hint: str
    besides: Sequence[str] = ()


def _tensorrt(module: str, hint: str) -> _Entry:
    distributions = (module, module.replace("_", "-"), f"{module}-cu12", f"{module}-cu13")
    return _Entry(tensorrt.opener(module), (module,), distributions, hint, cuda.MODULES)


_KNOWN: Mapping[str, _Entry] = MappingProxyType(
    {
        "litert": _Entry(
            litert.open_litert,
            litert.MODULES,
            ("ai-edge-litert", "tflite-runtime"),
            "install outrider[litert]",
        ),
        "onnxruntime": _Entry(
            onnxruntime.open_onnxruntime,
            onnxruntime.MODULES,
            ("onnxruntime", "onnxruntime-gpu"),
            "install outrider[onnx]",
        ),
        "tensorrt": _tensorrt(
            "tensorrt",
            "it comes with JetPack or the GPU's software; let the agent's environment see the system's packages",
        ),
        "tensorrt-rtx": _tensorrt("tensorrt_rtx", "install tensorrt-rtx"),
    }
)


def names() -> list[str]:
    """Names of the runtimes that this version knows, as manifests spell them."""
    return sorted(_KNOWN)


def available() -> list[RuntimeInfo]:
    """Each known runtime, with its version, or the reason why it cannot be used here."""
    return [_info(name, entry) for name, entry in sorted(_KNOWN.items())]


def version(name: str) -> str:
    """The version of a known runtime as it is installed here; empty when it is not or does not say."""
    entry = _KNOWN.get(name)
    return _info(name, entry).version if entry else ""


def usable(name: str) -> bool:
    """Whether a known runtime is installed here."""
    entry = _KNOWN.get(name)
    return bool(entry and _info(name, entry).available)


def open_runtime(artifact: VerifiedArtifact, options: Options = _DEFAULTS) -> Runtime:
    """Open an artifact with the runtime that its manifest names.

    The result serves the thread that uses it first; see `agent.runtimes.port`.

    Raises:
        RuntimeMissingError: this host cannot run that runtime.
        LoadError: the runtime refuses the artifact.
    """
    name = artifact.package.manifest.runtime
    entry = _KNOWN.get(name)
    if entry is None:
        raise RuntimeMissingError(
            f"expected an artifact for one of {', '.join(names())}, found one for {name!r}; "
            "choose another variant or update this program"
        )
    return entry.opener(artifact, options)


def wrap(runtime: Runtime, artifact: VerifiedArtifact, plug_in: str) -> Runtime:
    """Put the configured plug-in around a runtime.

    Args:
        runtime: an open runtime; the result owns it, and closes it.
        artifact: what it was opened with.
        plug_in: ``package.module:function``, called as ``function(runtime, artifact)``; empty for none.

    Raises:
        ConfigError: the name is malformed, or cannot be imported.
        LoadError: the plug-in failed.
    """
    if not plug_in:
        return runtime
    if not _PLUG_IN.match(plug_in):
        raise ConfigError(
            f"runtime_wrapper: expected package.module:function, found {plug_in!r}; correct the configuration"
        )
    module_name, _, function_name = plug_in.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"runtime_wrapper: {plug_in!r} cannot be imported: {error}") from None
    try:
        wrapped: Runtime = function(runtime, artifact)
    except Exception as error:  # the plug-in is not ours
        raise LoadError(f"runtime_wrapper {plug_in!r} failed: {error!r}") from error
    return wrapped


def _info(name: str, entry: _Entry) -> RuntimeInfo:
    if not any(_installed(module) for module in entry.modules):
        reason = f"none of {', '.join(entry.modules)} is installed; {entry.hint}"
        return RuntimeInfo(name=name, available=False, reason=reason)
    if entry.besides and not any(_installed(module) for module in entry.besides):
        reason = f"{name} needs cuda-python or pycuda, and found neither; install cuda-python"
        return RuntimeInfo(name=name, available=False, reason=reason)
    for distribution in entry.distributions:
        try:
            return RuntimeInfo(name=name, version=metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    return RuntimeInfo(name=name)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
