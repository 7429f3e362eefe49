"""Random lives of a device: whatever happens, the invariants hold, and once it is left alone it converges."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.virtual_agent import Device, PowerCutError
from support.virtual_cloud import Cloud

from agent.core.states import SETTLED, TERMINAL, State

pytestmark = pytest.mark.agent

BEHAVIOURS = {
    "1": "good", "2": "good", "3": "wrong", "4": "broken", "5": "crash", "6": "faulty", "7": "silent",
    "8": "build", "9": "build_fails",
}  # fmt: skip
ENDS_WELL = {"1", "2", "7", "8"}

ACTIONS = st.one_of(
    st.tuples(st.just("assign"), st.sampled_from(sorted(BEHAVIOURS))),
    st.tuples(st.just("two models"), st.sampled_from(sorted(BEHAVIOURS))),
    st.tuples(st.just("run"), st.sampled_from([0.02, 0.2, 1.0, 3.0, 15.0, 90.0])),
    st.tuples(st.just("disconnect"), st.none()),
    st.tuples(st.just("connect"), st.none()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("upgrade"), st.none()),
    st.tuples(st.just("power"), st.integers(0, 40)),
    st.tuples(st.just("crash"), st.integers(0, 3)),
    st.tuples(st.just("disk"), st.sampled_from(["disk.full", ""])),
    st.tuples(st.just("lose"), st.sampled_from([0, 2, 5])),
    st.tuples(st.just("junk"), st.sampled_from(["desired", "ack", "cmd", "res", "blob"])),
    st.tuples(st.just("replay"), st.none()),
)


class Life:
    """A device, what was done to it, and what may never change."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.device = Device(self.cloud)
        self.wanted: dict[str, str] = {}
        self.old = self.cloud.desired()
        self.was_active: set[str] = set()
        self.upgraded = False

    def do(self, action: str, value: object) -> None:
        try:
            getattr(self, "_" + action.replace(" ", "_"))(value)
        except PowerCutError:
            self.device.power = None
            self.device.boot()
        self.check()

    def check(self) -> None:
        for model, record in self.device.disk.models.items():
            if record.active is not None:
                self.was_active.add(model)
            kept = record.active is not None or model not in self.was_active
            assert kept or self.upgraded, record
            if record.state in TERMINAL:
                assert record.settled_counter == record.counter
        known = self.device.disk.trust.counter
        assert known <= self.cloud.counter

    def _assign(self, release: str) -> None:
        self.old = self.cloud.desired()
        self.wanted["digits"] = release
        self._publish()

    def _two_models(self, release: str) -> None:
        self.old = self.cloud.desired()
        self.wanted |= {"digits": release, "letters": release}
        self._publish()

    def _publish(self) -> None:
        paths = [
            self.cloud.release(model, release, BEHAVIOURS[release])
            for model, release in self.wanted.items()
        ]
        self.cloud.assign(*paths)
        if self.device.online:
            self.device.push("desired", self.cloud.desired())

    def _run(self, seconds: float) -> None:
        self.device.run(seconds)

    def _disconnect(self, _: None) -> None:
        self.device.disconnect()

    def _connect(self, _: None) -> None:
        self.device.connect()

    def _restart(self, _: None) -> None:
        self.device.boot()

    def _upgrade(self, _: None) -> None:
        """No engine of before fits any more."""
        self.upgraded = self.device.upgraded = True
        self.device.disk.engines.clear()
        try:
            self.device.boot()
        finally:
            self.device.upgraded = False

    def _power(self, commands: int) -> None:
        self.device.power = commands
        self.device.run(30.0)
        self.device.power = None

    def _crash(self, n: int) -> None:
        workers = sorted(self.device.workers)
        if n < len(workers):
            self.device.crash(workers[n])

    def _disk(self, code: str) -> None:
        self.device.disk_fails = code

    def _lose(self, nth: int) -> None:
        self.device.lose = nth

    def _junk(self, kind: str) -> None:
        self.device.push(kind, b"\x93junk")

    def _replay(self, _: None) -> None:
        self.device.push("desired", self.old)

    def heal(self) -> None:
        device = self.device
        device.disk_fails, device.lose, device.power = "", 0, None
        device.disconnect()
        device.connect()
        device.survive(4000.0)
        device.disconnect()
        device.connect()
        device.survive(600.0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, max_size=14))
def test_a_random_life(actions: list[tuple[str, object]]):
    life = Life()
    for action, value in actions:
        life.do(action, value)
    life.heal()
    for model, release in life.wanted.items():
        record = life.device.model(model)
        assert record.state in SETTLED, record
        assert record.counter == life.cloud.counter
        answering = life.device.answering(model)
        if record.active is not None and BEHAVIOURS[record.active.release] in {
            "good",
            "silent",
            "build",
        }:
            assert answering == record.active.release
        excused = {"disk.full", "agent.loop", "serving.worker_lost"}
        if release in ENDS_WELL and record.error_code not in excused:
            assert record.state is State.COMMITTED, record
            assert answering == release
        elif release not in ENDS_WELL:
            assert record.state is State.FAILED
    assert not [row for row in life.device.disk.rows if row.kind == "reported"]
