"""Building: logger, builder, network, parser, config."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import onnxruntime

from tensorrt._enumerations import DataType, LayerType, Severity

_DTYPES = {
    "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int8)": "INT8", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8",
}  # fmt: skip


def does(trouble):
    return os.environ.get("FAKE_TENSORRT_DOES", "") == trouble


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING
    INFO, VERBOSE = Severity.INFO, Severity.VERBOSE

    def __init__(self):
        self._made = True

    def log(self, severity, msg):
        raise TypeError("pure virtual")


class IProgressMonitor:
    def __init__(self):
        self._made = True


class ITensor:
    def __init__(self, node):
        shape = [n if isinstance(n, int) else -1 for n in node.shape]
        self.__dict__.update(
            name=node.name, shape=shape, dtype=getattr(DataType, _DTYPES[node.type])
        )


class ILayer:
    def __init__(self, inputs, outputs):
        self.__dict__.update(
            name="all of it", type=LayerType.CONVOLUTION, num_inputs=len(inputs), num_outputs=len(outputs)
        )  # fmt: skip
        self._inputs, self._outputs = inputs, outputs

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self):
        self._onnx, self._inputs, self._outputs = b"", [], []

    @property
    def num_inputs(self):
        return len(self._inputs)

    @property
    def num_outputs(self):
        return len(self._outputs)

    @property
    def num_layers(self):
        return 1

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]

    def get_layer(self, index):
        assert index == 0
        return ILayer(self._inputs, self._outputs)


class ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text

    def node(self):
        return 3


class OnnxParser:
    def __init__(self, network, logger):
        assert logger._made
        self._network, self._errors = network, []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def parse(self, model, path=None):
        try:
            session = onnxruntime.InferenceSession(bytes(model), providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001
            self._errors.append(ParserError(f"In node 3: {str(error)[:200]}"))
            return False
        self._network._onnx = bytes(model)
        self._network._inputs = [ITensor(node) for node in session.get_inputs()]
        self._network._outputs = [ITensor(node) for node in session.get_outputs()]
        return True


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def __bool__(self):
        return bool(self._shapes)

    def set_shape(self, input, min, opt, max):  # noqa: A002
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = [list(min), list(opt), list(max)]


class IHostMemory:
    def __init__(self, data):
        self._data = data

    @property
    def nbytes(self):
        return len(self._data)

    def __bytes__(self):
        return self._data


class ITimingCache:
    def __init__(self, data):
        self._data = data

    def serialize(self):
        return IHostMemory(self._data)


class IBuilderConfig:
    def __init__(self):
        self._flags, self._profiles, self._cache, self._pool = set(), [], None, {}
        self.__dict__.update(
            progress_monitor=None, profiling_verbosity=None, builder_optimization_level=3
        )

    progress_monitor = profiling_verbosity = builder_optimization_level = None

    def set_memory_pool_limit(self, pool, pool_size):
        self._pool[pool] = pool_size

    def get_flag(self, flag):
        return flag in self._flags

    def set_flag(self, flag):
        self._flags.add(flag)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return not cache._data.startswith(b"of another device")

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        if not os.environ.get("FAKE_GPU"):
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags=0):
        assert flags == 2, "expected a strongly typed network"
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        """Build in a thread of its own, so that callbacks come from one that Python did not make."""
        made = []
        worker = threading.Thread(target=lambda: made.append(self._build(network, config)))
        worker.start()
        worker.join()
        return made[0]

    def _build(self, network, config):
        varying = [t.name for t in network._inputs if -1 in t.shape]
        if varying and not config._profiles:
            self._logger.log(
                Severity.ERROR, "Network has dynamic inputs, but no optimization profile"
            )
            return None
        if not self._work(config.progress_monitor):
            self._logger.log(Severity.ERROR, "Error Code 7: BuildCanceled (Build canceled by user)")
            return None
        if does("none"):
            self._logger.log(
                Severity.ERROR, "Error Code 10: Could not find any implementation for node"
            )
            return None
        config._cache._data = b"measured" + len(config._cache._data).to_bytes(2, "little")
        head = {
            "profiles": config._profiles,
            "built": [os.environ["FAKE_TENSORRT"], os.environ["FAKE_GPU"]],
        }
        text = json.dumps(head).encode()
        inside = (
            b"\x7fELF\x02\x01\x01"
            + bytes(11)
            + (62).to_bytes(2, "little")
            + (1).to_bytes(4, "little")
        )
        extra = inside if does("host_code") else b""
        engine = b"ftrt" + len(text).to_bytes(4, "little") + text + network._onnx + extra
        return IHostMemory(b"junk" if does("junk") else engine)

    def _work(self, monitor):
        if does("crash"):
            os.abort()
        steps = 300 if does("slow") or does("hungry") else 4
        taken = []
        monitor.phase_start("Building engine", None, 2)
        for phase in range(2):
            monitor.phase_start("Timing tactics", "Building engine", steps)
            for step in range(steps):
                if does("slow"):
                    time.sleep(0.02)
                if does("hungry"):
                    taken.append(bytearray(os.urandom(1 << 20)) * 16)
                    time.sleep(0.02)
                while does("hang"):
                    time.sleep(0.1)
                if not monitor.step_complete("Timing tactics", step):
                    return False
            monitor.phase_finish("Timing tactics")
            monitor.step_complete("Building engine", phase)
        monitor.phase_finish("Building engine")
        print("built", file=sys.stderr)
        return True
