"""Enumerations of TensorRT, with the members of all versions."""

from __future__ import annotations


class Kind(type):
    """An enumeration: members are objects that print like ``DataType.FLOAT``, and turn into numbers."""


class Member:
    def __init__(self, kind, name, number):
        self._kind, self.name, self.value = kind, name, number

    def __str__(self):
        return f"{self._kind}.{self.name}"

    def __int__(self):
        return self.value

    def __eq__(self, other):
        return isinstance(other, Member) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))


def _enumeration(name, *members):
    return Kind(name, (), {member: Member(name, member, n) for n, member in enumerate(members)})


DataType = _enumeration(
    "DataType", "FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4", "FP4", "E8M0"
)  # fmt: skip
NetworkDefinitionCreationFlag = _enumeration(
    "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", "STRONGLY_TYPED"
)
BuilderFlag = _enumeration("BuilderFlag", "FP16", "INT8", "TF32", "VERSION_COMPATIBLE", "REFIT")
MemoryPoolType = _enumeration("MemoryPoolType", "WORKSPACE", "TACTIC_DRAM")
ProfilingVerbosity = _enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED", "NONE")
TensorIOMode = _enumeration("TensorIOMode", "NONE", "INPUT", "OUTPUT")
TensorLocation = _enumeration("TensorLocation", "DEVICE", "HOST")
LayerInformationFormat = _enumeration("LayerInformationFormat", "ONELINE", "JSON")
LayerType = _enumeration("LayerType", "CONVOLUTION", "CAST", "PLUGIN_V2")
Severity = _enumeration("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
