"""TensorRT as far as the driver and the runtime use it, with exactly the names of one version.

A child process with this folder's parent on ``PYTHONPATH`` imports it as ``tensorrt``. ONNX Runtime does the
computing, so that a built "engine" answers as its model does. Every name that the chosen version does not have
(``FAKE_TENSORRT``, a file of ``tests/data/tensorrt``) is missing here, too, reading or setting.

``FAKE_TENSORRT_DOES`` scripts trouble: ``none`` (build returns None), ``slow`` (a build takes twelve seconds),
``hang`` (a step never ends), ``crash`` (the process dies), ``junk`` (an engine of junk), ``host_code`` (an
engine with a program for the host inside), ``hungry`` (takes memory until it is stopped).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_NAMES = json.loads(
    (
        Path(__file__).parents[3] / "data" / "tensorrt" / f"{os.environ['FAKE_TENSORRT']}.json"
    ).read_text()
)
__version__ = _NAMES["version"]

from tensorrt import _engine, _enumerations, _network  # noqa: E402

_KNOWN = {**vars(_enumerations), **vars(_network), **vars(_engine)}


def _with_names_of_the_version(name, found):
    """A class without the names that this version lacks; setting another name is an error, as in pybind."""
    allowed = set(_NAMES["classes"][name])
    for attribute in [a for a in vars(found) if not a.startswith("_")]:
        if attribute not in allowed:
            delattr(found, attribute)

    def set_attribute(self, attribute, value):
        if not attribute.startswith("_") and attribute not in allowed and type(self) is found:
            raise AttributeError(f"{name} of TensorRT {__version__} has no {attribute!r}")
        object.__setattr__(self, attribute, value)

    if not isinstance(found, _enumerations.Kind):
        found.__setattr__ = set_attribute
    return found


globals().update({
    name: _with_names_of_the_version(name, _KNOWN[name])
    for name in _NAMES["classes"]
    if name in _KNOWN
})  # fmt: skip
nptype = _engine.nptype
