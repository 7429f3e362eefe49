"""Memory of the GPU, and a stream, behind one small port: `cuda-python` where it is, else `pycuda`.

Rules:
- The primary context of device 0 is used, by the one thread that opened it; the stream is never the default
  one.
- Where processor and GPU share their memory (Jetson), a buffer is pinned and mapped: nothing is copied.
- Every status is looked at; a failure is an `InferenceError` with CUDA's own words.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.errors import InferenceError, RuntimeMissingError

Array = NDArray[np.generic]
MODULES = ("cuda", "pycuda")


class Buffer(Protocol):
    """Memory that the GPU reads and writes.

    Attributes:
        address: for the GPU.
        size_bytes: what it holds at most.
    """

    address: int
    size_bytes: int

    def write(self, array: Array) -> None:
        """Bring a contiguous array in, in the stream's order."""

    def read(self, array: Array) -> None:
        """Bring its content into a contiguous array, once the stream is synchronized."""

    def free(self) -> None:
        """Give it back."""


class Cuda(Protocol):
    """A device and a stream.

    Attributes:
        stream: its handle.
    """

    stream: int

    def buffer(self, size_bytes: int) -> Buffer:
        """New memory.

        Raises:
            InferenceError: there is not enough.
        """

    def synchronize(self) -> None:
        """Wait for everything that was asked so far."""

    def close(self) -> None:
        """Give the stream back."""


def open_cuda() -> Cuda:
    """CUDA by whichever package is installed.

    Raises:
        RuntimeMissingError: none is.
        InferenceError: there is no device.
    """
    reasons = []
    for name, make in (
        ("cuda.bindings.runtime", CudaPython),
        ("cuda.cudart", CudaPython),
        ("pycuda.driver", PyCuda),
    ):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
            continue
        return make(module)
    raise RuntimeMissingError(
        f"expected cuda-python or pycuda, found neither ({'; '.join(reasons)}); install the cuda-python of "
        "this system's CUDA version"
    )


class CudaPython:
    """By cuda-python, the runtime API."""

    def __init__(self, runtime: Any) -> None:
        """Take device 0."""
        self._cuda = runtime
        self.call("cudaSetDevice", 0)
        attribute = runtime.cudaDeviceAttr.cudaDevAttrIntegrated
        self.integrated = bool(self.call("cudaDeviceGetAttribute", attribute, 0))
        flag = runtime.cudaStreamNonBlocking
        self._stream = self.call("cudaStreamCreateWithFlags", flag)
        self.stream = int(self._stream)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; what it answers besides its status.

        Raises:
            InferenceError: the status is an error.
        """
        status, *answers = getattr(self._cuda, name)(*arguments)
        if int(status):
            words = self._cuda.cudaGetErrorString(status)[-1]
            text = words.decode() if isinstance(words, bytes) else str(words)
            raise InferenceError(f"{name} failed: CUDA error {int(status)}: {text}")
        return answers[0] if answers else None

    def buffer(self, size_bytes: int) -> Buffer:
        """See the port."""
        return (_Mapped if self.integrated else _Device)(self, size_bytes)

    def copy(self, destination: int, source: int, size_bytes: int, *, kind: str) -> None:
        """Copy in the stream's order; `kind` is the name of CUDA's."""
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        self.call("cudaMemcpyAsync", destination, source, size_bytes, direction, self._stream)

    def mapped(self, size_bytes: int) -> tuple[int, int]:
        """Pinned memory: its address for the processor, and for the GPU."""
        host = int(self.call("cudaHostAlloc", size_bytes, self._cuda.cudaHostAllocMapped))
        return host, int(self.call("cudaHostGetDevicePointer", host, 0))

    def synchronize(self) -> None:
        """See the port."""
        self.call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """See the port."""
        self.call("cudaStreamDestroy", self._stream)


class _Device:
    """Memory of a GPU that has its own."""

    def __init__(self, cuda: CudaPython, size_bytes: int) -> None:
        self._cuda, self.size_bytes = cuda, size_bytes
        self.address = int(cuda.call("cudaMalloc", size_bytes))

    def write(self, array: Array) -> None:
        self._cuda.copy(
            self.address, array.ctypes.data, array.nbytes, kind="cudaMemcpyHostToDevice"
        )

    def read(self, array: Array) -> None:
        self._cuda.copy(
            array.ctypes.data, self.address, array.nbytes, kind="cudaMemcpyDeviceToHost"
        )
        self._cuda.synchronize()

    def free(self) -> None:
        self._cuda.call("cudaFree", self.address)


class _Mapped:
    """Memory that processor and GPU share."""

    def __init__(self, cuda: CudaPython, size_bytes: int) -> None:
        self._cuda, self.size_bytes = cuda, size_bytes
        self._host, self.address = cuda.mapped(size_bytes)

    def write(self, array: Array) -> None:
        ctypes.memmove(self._host, array.ctypes.data, array.nbytes)

    def read(self, array: Array) -> None:
        ctypes.memmove(array.ctypes.data, self._host, array.nbytes)

    def free(self) -> None:
        self._cuda.call("cudaFreeHost", self._host)


class PyCuda:
    """By PyCUDA, which raises where CUDA fails; its contexts are bound to a thread."""

    def __init__(self, driver: Any) -> None:
        """Take device 0."""
        self._cuda = driver
        try:
            driver.init()
            device = driver.Device(0)
            self.integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()
            self._context.push()
            self._stream = driver.Stream(1)  # non-blocking
        except driver.Error as error:
            raise InferenceError(f"CUDA cannot be used: {error}") from None
        self.stream = int(self._stream.handle)

    def buffer(self, size_bytes: int) -> Buffer:
        """See the port."""
        try:
            return _PyCudaBuffer(self._cuda, self._stream, size_bytes, mapped=self.integrated)
        except self._cuda.Error as error:
            raise InferenceError(f"{size_bytes} bytes of CUDA memory: {error}") from None

    def synchronize(self) -> None:
        """See the port."""
        try:
            self._stream.synchronize()
        except self._cuda.Error as error:
            raise InferenceError(f"the stream cannot be synchronized: {error}") from None

    def close(self) -> None:
        """See the port."""
        self._context.pop()
        self._context.detach()


class _PyCudaBuffer:
    def __init__(self, driver: Any, stream: Any, size_bytes: int, *, mapped: bool) -> None:
        self._cuda, self._stream, self.size_bytes = driver, stream, size_bytes
        self._memory: Any = None
        self._shared: Any = None
        if mapped:
            flags = driver.host_alloc_flags.DEVICEMAP
            self._shared = driver.pagelocked_empty((size_bytes,), np.uint8, mem_flags=flags)
            self.address = int(self._shared.base.get_device_pointer())
        else:
            self._memory = driver.mem_alloc(size_bytes)
            self.address = int(self._memory)

    def write(self, array: Array) -> None:
        if self._shared is not None:
            ctypes.memmove(self._shared.ctypes.data, array.ctypes.data, array.nbytes)
        else:
            self._cuda.memcpy_htod_async(self.address, array, self._stream)

    def read(self, array: Array) -> None:
        if self._shared is not None:
            ctypes.memmove(array.ctypes.data, self._shared.ctypes.data, array.nbytes)
        else:
            self._cuda.memcpy_dtoh_async(array, self.address, self._stream)
            self._stream.synchronize()

    def free(self) -> None:
        if self._memory is not None:
            self._memory.free()
        self._memory = self._shared = None
