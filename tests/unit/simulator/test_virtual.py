from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.adapters.store import Kept
from simulator.errors import ViolationError
from simulator.virtual.disk import CuttableStore
from simulator.virtual.network import Network, NetworkFault
from simulator.virtual.schedule import Schedule

DIGEST = "ab" * 32


class Peer:
    def __init__(self, name: str = "dev") -> None:
        self.name = name
        self.powered = True
        self.heard: list[bytes] = []
        self.states: list[str] = []

    def on_connected(self) -> None:
        self.states.append("connected")

    def on_disconnected(self) -> None:
        self.states.append("disconnected")

    def on_message(self, kind: str, payload: bytes) -> None:
        self.heard.append(payload)


def _network(fault: NetworkFault | None) -> tuple[Schedule, Network, Peer, list[tuple[str, bytes]]]:
    schedule, arrived = Schedule(), []
    network = Network(
        schedule,
        random.Random(1),
        lambda _device, kind, payload: arrived.append((kind, payload)),
        fault,
    )
    peer = Peer()
    network.add(peer)
    network.powered_on(peer.name)
    schedule.run(20.0)
    return schedule, network, peer, arrived


def test_things_happen_in_the_order_of_their_time_then_of_their_planning():
    schedule, happened = Schedule(), []
    schedule.after(2.0, lambda: happened.append("c"))
    schedule.after(1.0, lambda: happened.append("a"))
    schedule.after(1.0, lambda: happened.append("b"))
    schedule.after(9.0, lambda: happened.append("never"))
    schedule.run(5.0)
    assert happened == ["a", "b", "c"]
    assert schedule.now == 5.0


def test_time_that_does_not_pass_is_a_violation():
    schedule = Schedule()

    def spin() -> None:
        schedule.after(0.0, spin)

    spin()
    with pytest.raises(ViolationError, match="expected time to pass"):
        schedule.run(1.0)


def test_a_good_network_delivers_everything_once_and_in_order():
    schedule, network, peer, arrived = _network(None)
    arrived.clear()
    for i in range(200):
        network.up(peer.name, "event", bytes([i]))
        network.down(peer.name, "ack", bytes([i]))
    schedule.run(schedule.now + 60)
    assert [payload for _, payload in arrived] == peer.heard == [bytes([i]) for i in range(200)]


def test_a_bad_network_loses_doubles_and_reorders():
    schedule, network, peer, arrived = _network(NetworkFault(partition_every_s=0.0))
    arrived.clear()
    for i in range(200):
        network.up(peer.name, "event", bytes([i]))
    schedule.run(schedule.now + 60)
    received = [payload for _, payload in arrived]
    assert 0 < network.lost < 40
    assert 0 < network.doubled < 40
    assert len(received) == 200 - network.lost + network.doubled
    assert received != sorted(received)


def test_a_device_that_is_cut_off_notices_and_comes_back_and_its_will_is_heard():
    fault = NetworkFault(loss=0, duplication=0, slow=0, partition_every_s=400.0, partition_s=300.0)
    schedule, network, peer, arrived = _network(fault)
    schedule.run(7200.0)
    network.heal()
    schedule.run(7300.0)
    assert network.cuts > 3
    assert peer.states.count("disconnected") > 1
    assert peer.states[-1] == "connected"
    assert peer.states.count("connected") == peer.states.count("disconnected") + 1
    presence = [b"false" not in payload for kind, payload in arrived if kind == "status"]
    assert False in presence
    assert presence[-1] is True


def test_without_power_nothing_is_heard():
    schedule, network, peer, _ = _network(None)
    peer.powered = False
    network.powered_off(peer.name)
    network.down(peer.name, "ack", b"x")
    schedule.run(schedule.now + 60)
    assert peer.heard == []
    assert not network.connected(peer.name)


@pytest.mark.parametrize("synced", [True, False])
def test_a_power_cut_hurts_only_what_was_not_synced(tmp_path: Path, synced: bool):
    hurt = 0
    for seed in range(20):
        store = CuttableStore(tmp_path / str(seed))
        store.prepare(DIGEST, 64)
        store.write_block(DIGEST, 0, b"a" * 32)
        store.save_bitmap(DIGEST, Kept(b"list", b"\x01"))
        store.write_block(DIGEST, 32, b"b" * 32)
        if synced:
            store.save_bitmap(DIGEST, Kept(b"list", b"\x03"))
        hurt += store.cut_power(random.Random(seed))
        data = (store.root / "downloads" / f"{DIGEST}.part").read_bytes()
        assert data[:32] == b"a" * 32
        assert len(data) == 64
        if synced:
            assert data[32:] == b"b" * 32
    assert (hurt > 0) is not synced
