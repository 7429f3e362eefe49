"""What may be passed on to twins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.proving import engine
from ota.proving.engine import ENGINE, OPEN, EngineState, EngineTrigger

ENVIRONMENT = {
    "device_name": "Orin Nano", "compute_capability": "8.7", "l4t": "36.4", "tensorrt": "10.3.0",
}  # fmt: skip


def elf(machine: int, *, big: bool = False) -> bytes:
    order = "big" if big else "little"
    ident = b"\x7fELF" + bytes([2, 2 if big else 1, 1]) + bytes(9)
    return ident + (3).to_bytes(2, order) + machine.to_bytes(2, order) + bytes(44)


@pytest.mark.parametrize(("machine", "big"), [(62, False), (183, False), (40, True)])
def test_an_elf_file_for_a_processor_is_host_code(machine: int, *, big: bool) -> None:
    found = engine.host_code(b"kernels" + elf(190) + b"x" * 99 + elf(machine, big=big))
    assert f"machine {machine}" in found


def test_kernels_for_cuda_are_no_host_code() -> None:
    assert engine.host_code(elf(190) + b"weights\x7fELF" + elf(190)) == ""
    assert engine.host_code(b"") == ""


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(data: bytes) -> None:
    assert isinstance(engine.host_code(data), str)
    assert engine.host_code(data + elf(62) + data)


def test_a_twin_has_everything_in_common() -> None:
    assert engine.twin_of({**ENVIRONMENT, "cuda": "12.6"}) == ENVIRONMENT
    for key in ENVIRONMENT:
        assert engine.twin_of({k: v for k, v in ENVIRONMENT.items() if k != key}) == {}
        assert engine.twin_of({**ENVIRONMENT, key: "other"}) != ENVIRONMENT


@given(st.lists(st.sampled_from(EngineTrigger), max_size=12))
def test_it_ends_once_and_is_built_only_of_what_was_attested(events: list[EngineTrigger]) -> None:
    state, seen = ENGINE.initial, []
    for event in events:
        if ENGINE.allows(state, event):
            assert state in OPEN
            state = ENGINE.next(state, event)
            seen.append(event)
    if state is EngineState.BUILT:
        assert EngineTrigger.OFFERED in seen
        assert seen[-1] is EngineTrigger.COMPLETE
    assert ENGINE.terminal == set(EngineState) - OPEN
