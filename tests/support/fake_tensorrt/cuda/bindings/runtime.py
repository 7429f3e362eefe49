"""The CUDA runtime as cuda-python spells it; a device's memory is this host's.

``FAKE_CUDA_FAILS`` names a call that answers with an error.
"""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum

cudaStreamNonBlocking = 1  # noqa: N816
cudaHostAllocMapped = 2  # noqa: N816
_held: dict[int, object] = {}
live: dict[str, int] = {"device": 0, "host": 0, "streams": 0}


class cudaError_t(IntEnum):  # noqa: N801
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815


class cudaMemcpyKind(IntEnum):  # noqa: N801
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815


class cudaDeviceAttr(IntEnum):  # noqa: N801
    cudaDevAttrIntegrated = 18  # noqa: N815


def _status(name):
    fails = os.environ.get("FAKE_CUDA_FAILS") == name
    return cudaError_t.cudaErrorMemoryAllocation if fails else cudaError_t.cudaSuccess


def cudaGetErrorString(error):  # noqa: N802
    return cudaError_t.cudaSuccess, b"out of memory" if error else b"no error"


def cudaSetDevice(_device):  # noqa: N802
    return (_status("cudaSetDevice"),)


def cudaDeviceGetAttribute(attribute, _device):  # noqa: N802
    assert attribute is cudaDeviceAttr.cudaDevAttrIntegrated
    return _status("cudaDeviceGetAttribute"), int(os.environ.get("FAKE_CUDA_INTEGRATED", "0"))


def _allocate(kind, size):
    buffer = ctypes.create_string_buffer(size)
    address = ctypes.addressof(buffer)
    _held[address] = buffer
    live[kind] += 1
    return address


def cudaMalloc(size):  # noqa: N802
    status = _status("cudaMalloc")
    return status, None if status else _allocate("device", size)


def cudaFree(address):  # noqa: N802
    del _held[address]
    live["device"] -= 1
    return (_status("cudaFree"),)


def cudaHostAlloc(size, flags):  # noqa: N802
    assert flags == cudaHostAllocMapped
    return _status("cudaHostAlloc"), _allocate("host", size)


def cudaHostGetDevicePointer(address, flags):  # noqa: N802
    assert flags == 0
    return _status("cudaHostGetDevicePointer"), address


def cudaFreeHost(address):  # noqa: N802
    del _held[address]
    live["host"] -= 1
    return (_status("cudaFreeHost"),)


def cudaStreamCreateWithFlags(flags):  # noqa: N802
    assert flags == cudaStreamNonBlocking
    live["streams"] += 1
    return _status("cudaStreamCreateWithFlags"), 7


def cudaStreamDestroy(_stream):  # noqa: N802
    live["streams"] -= 1
    return (_status("cudaStreamDestroy"),)


def cudaMemcpyAsync(destination, source, size, kind, stream):  # noqa: N802
    assert stream == 7
    assert kind in (1, 2)
    ctypes.memmove(destination, source, size)
    return (_status("cudaMemcpyAsync"),)


def cudaStreamSynchronize(stream):  # noqa: N802
    assert stream == 7
    return (_status("cudaStreamSynchronize"),)
