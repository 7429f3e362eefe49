"""An engine that a builder device makes for its twins, from the order to the derived artifact.

Rules:
- The bytes are collected under the digest that the device attested with its own key; a device that attests
  another engine begins anew, and bytes that are not those end the build.
- ``built`` proves nothing: the engine is an unproven artifact until a second device has reproduced the golden vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from fleet.statemachine import Table

MAX_ENGINE_BYTES: Final = 4 << 30
BLOCK_BYTES: Final = 48 << 10
"""Base64 and its envelope keep a block below the 128 KiB at which some brokers cap payloads."""

TWIN_KEYS: Final = ("device_name", "compute_capability", "l4t", "tensorrt")
"""What two devices must have in common, beside their hardware class, to run one another's engines."""

_ELF: Final = b"\x7fELF"
_EM_CUDA: Final = 190


class EngineState(str, Enum):
    """Where a build for twins stands."""

    ORDERED = "ordered"
    RECEIVING = "receiving"
    BUILT = "built"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class EngineTrigger(str, Enum):
    """What moves it."""

    OFFERED = "offered"
    """The device has attested an engine: its digest, its length and what it depends on."""
    REOFFERED = "reoffered"
    """The device has attested another engine than before; what was received is dropped."""
    COMPLETE = "complete"
    """All bytes are there and their digest is the attested one."""
    MISSED = "missed"
    """The device could not build, or the engine is none that may be passed on."""
    CALLED_OFF = "called_off"
    """A person called it off, or the device is a builder no more."""
    TIMED_OUT = "timed_out"
    """The device did not answer in time."""


OPEN: Final = frozenset({EngineState.ORDERED, EngineState.RECEIVING})

_S, _T = EngineState, EngineTrigger

ENGINE: Final = Table(
    "engine for twins",
    initial=EngineState.ORDERED,
    transitions={
        (_S.ORDERED, _T.OFFERED): _S.RECEIVING,
        (_S.RECEIVING, _T.REOFFERED): _S.RECEIVING,
        (_S.RECEIVING, _T.COMPLETE): _S.BUILT,
        **{(state, _T.MISSED): _S.REFUSED for state in EngineState if state in OPEN},
        **{(state, _T.CALLED_OFF): _S.CANCELLED for state in EngineState if state in OPEN},
        **{(state, _T.TIMED_OUT): _S.EXPIRED for state in EngineState if state in OPEN},
    },
)


def twin_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What ties an engine to its twins; empty when the environment does not say all of it."""
    found = {key: str(environment.get(key, "")) for key in TWIN_KEYS}
    return found if all(found.values()) else {}


def host_code(engine: bytes) -> str:
    """Why an engine may carry code for the host's processor; empty when none was found.

    An engine's kernels are ELF files for CUDA (machine 190); an ELF file for any other machine is a program or
    library of the host, as version-compatible engines embed it.
    """
    at = engine.find(_ELF)
    while at >= 0:
        header = engine[at : at + 20]
        if len(header) == 20 and header[4] in {1, 2} and header[5] in {1, 2} and header[6] == 1:
            machine = int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")
            if machine != _EM_CUDA:
                return f"an ELF file for machine {machine} at byte {at}"
        at = engine.find(_ELF, at + 1)
    return ""
