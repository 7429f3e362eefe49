"""The CUDA driver as PyCUDA spells it; a device's memory is this host's."""

from __future__ import annotations

import ctypes
import os


class Error(Exception):
    """What PyCUDA raises."""


class device_attribute:  # noqa: N801
    INTEGRATED = 18


class host_alloc_flags:  # noqa: N801
    DEVICEMAP = 2


class Context:
    depth = 0

    def push(self):
        Context.depth += 1

    @staticmethod
    def pop() -> None:
        Context.depth -= 1

    def detach(self):
        return None


class Device:
    def __init__(self, index):
        assert index == 0

    def retain_primary_context(self):
        return Context()

    def get_attribute(self, attribute):
        assert attribute == device_attribute.INTEGRATED
        return int(os.environ.get("FAKE_CUDA_INTEGRATED", "0"))


class Stream:
    def __init__(self, flags=0):
        assert flags == 1
        self.handle = 7

    def synchronize(self):
        return self


class DeviceAllocation:
    def __init__(self, size):
        self._buffer = ctypes.create_string_buffer(size)

    def __int__(self):
        return ctypes.addressof(self._buffer)

    def free(self):
        self._buffer = None


def init():
    return None


def mem_alloc(size):
    if os.environ.get("FAKE_CUDA_FAILS") == "cudaMalloc":
        raise Error("cuMemAlloc failed: out of memory")
    return DeviceAllocation(size)


def pagelocked_empty(shape, dtype, mem_flags=0):
    import numpy as np

    assert mem_flags == host_alloc_flags.DEVICEMAP
    (size,) = shape

    def get_device_pointer(self):
        return ctypes.addressof(self)

    base = type("Pinned", (ctypes.c_ubyte * size,), {"get_device_pointer": get_device_pointer})
    return np.frombuffer(base(), dtype)


def memcpy_htod_async(destination, source, stream):
    ctypes.memmove(int(destination), source.ctypes.data, source.nbytes)


def memcpy_dtoh_async(destination, source, stream):
    ctypes.memmove(destination.ctypes.data, int(source), destination.nbytes)
