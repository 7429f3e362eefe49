"""Running: runtime, engine, context; ONNX Runtime computes what is inside the "engine"."""

from __future__ import annotations

import ctypes
import json
import os

import numpy as np
import onnxruntime

from tensorrt._enumerations import DataType, Severity, TensorIOMode, TensorLocation
from tensorrt._network import IHostMemory, ITensor

_NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT8: np.int8, DataType.INT32: np.int32,
    DataType.INT64: np.int64, DataType.BOOL: np.bool_, DataType.UINT8: np.uint8,
}  # fmt: skip


def nptype(dtype):
    if dtype not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return _NUMPY[dtype]


class EngineInspector:
    def get_engine_information(self, format):  # noqa: A002
        return json.dumps({"Layers": [{"Name": "all of it"}]})


class Runtime:
    def __init__(self, logger):
        if not os.environ.get("FAKE_GPU"):
            os.abort()  # as the real one does without a driver
        self._logger = logger
        self.__dict__["engine_host_code_allowed"] = False

    engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        data = bytes(serialized_engine)
        size = int.from_bytes(data[4:8], "little")
        head = json.loads(data[8 : 8 + size]) if data[:4] == b"ftrt" else None
        if head is None or head["built"] != [
            os.environ["FAKE_TENSORRT"],
            os.environ["FAKE_GPU"],
        ]:
            self._logger.log(
                Severity.ERROR, "Error Code 1: Serialization (magic tag, version or device differs)"
            )
            return None
        return ICudaEngine(head["profiles"], data[8 + size :])


class ICudaEngine:
    def __init__(self, profiles, onnx):
        self._profiles = profiles
        self._session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self._inputs = {node.name: ITensor(node) for node in self._session.get_inputs()}
        self._outputs = {node.name: ITensor(node) for node in self._session.get_outputs()}

    @property
    def num_io_tensors(self):
        return len(self._inputs) + len(self._outputs)

    @property
    def num_layers(self):
        return 1

    @property
    def num_optimization_profiles(self):
        return max(1, len(self._profiles))

    def get_tensor_name(self, index):
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return (self._inputs | self._outputs)[name].dtype

    def get_tensor_shape(self, name):
        return (self._inputs | self._outputs)[name].shape

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name, profile_index):
        shape = self._inputs[name].shape
        profile = self._profiles[profile_index] if self._profiles else {}
        return profile.get(name, [shape, shape, shape])

    def create_engine_inspector(self):
        return EngineInspector()

    def create_execution_context(self):
        return (
            None
            if os.environ.get("FAKE_TENSORRT_DOES") == "no_context"
            else IExecutionContext(self)
        )

    def serialize(self):
        return IHostMemory(b"")


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._shapes, self._addresses = engine, {}, {}

    def set_input_shape(self, name, shape):
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        fits = all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def infer_shapes(self):
        return [
            name
            for name, t in self._engine._inputs.items()
            if -1 in t.shape and name not in self._shapes
        ]

    def _shape(self, name):
        return self._shapes.get(name, tuple(self._engine._inputs[name].shape))

    def get_tensor_shape(self, name):
        if name in self._engine._inputs:
            return self._shape(name)
        zeros = {
            n: np.zeros(self._shape(n), nptype(t.dtype)) for n, t in self._engine._inputs.items()
        }
        return self._engine._session.run([name], zeros)[0].shape

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle):
        assert stream_handle, "the default stream is not for inference"
        feeds = {}
        for name, tensor in self._engine._inputs.items():
            array = np.empty(self._shape(name), nptype(tensor.dtype))
            ctypes.memmove(array.ctypes.data, self._addresses[name], array.nbytes)
            feeds[name] = array
        answers = self._engine._session.run(list(self._engine._outputs), feeds)
        for name, answer in zip(self._engine._outputs, answers, strict=True):
            whole = np.ascontiguousarray(answer)
            ctypes.memmove(self._addresses[name], whole.ctypes.data, whole.nbytes)
        return os.environ.get("FAKE_TENSORRT_DOES") != "not_executed"
