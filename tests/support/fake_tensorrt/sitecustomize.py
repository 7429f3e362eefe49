"""Puts a CUDA driver into processes that have this folder on their path; see `tensorrt` beside it.

``FAKE_GPU`` is JSON: ``{"name", "capability": [8, 7], "free_mib", "driver"}``; empty for no driver.
"""

from __future__ import annotations

import ctypes
import json
import os

_DLL = ctypes.CDLL


class FakeCuda:
    """The few calls of the CUDA driver API that the probe makes."""

    def __init__(self, gpu: dict) -> None:
        self.gpu = gpu

    def cuInit(self, _flags):  # noqa: N802
        return int(self.gpu.get("init_error", 0))

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = int(self.gpu.get("count", 1))
        return 0

    def cuDeviceGet(self, device, _index):  # noqa: N802
        device._obj.value = 0
        return 0

    def cuDeviceGetName(self, name, _length, _device):  # noqa: N802
        name.value = self.gpu.get("name", "Orin").encode()
        return 0

    def cuDeviceGetAttribute(self, value, attribute, _device):  # noqa: N802
        major, minor = self.gpu.get("capability", [8, 7])
        value._obj.value = {75: major, 76: minor, 18: 1}[attribute]
        return 0

    def cuDevicePrimaryCtxRetain(self, _context, _device):  # noqa: N802
        return 0

    def cuCtxSetCurrent(self, _context):  # noqa: N802
        return 0

    def cuMemGetInfo_v2(self, free, total):  # noqa: N802
        free._obj.value = int(self.gpu.get("free_mib", 4096)) << 20
        total._obj.value = 8192 << 20
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = int(self.gpu.get("driver", 12060))
        return 0


def _open(name, *arguments, **settings):
    gpu = os.environ.get("FAKE_GPU", "")
    if name == "libcuda.so.1" and gpu:
        return FakeCuda(json.loads(gpu))
    return _DLL(name, *arguments, **settings)


ctypes.CDLL = _open
