"""A broadcast between the real sending side and real downloads, over a lossy network in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.transfers import Served, target_of

from fleet.wire.messages import Block, BlocksWanted, Refusal
from ota.transfer import broadcast
from ota.transfer.broadcast import Carousel, Say
from ota.transfer.download import Download
from ota.transfer.terms import Terms

pytestmark = pytest.mark.agent

SIZE = 16 << 10


@dataclass
class Device:
    """A download with its disk and its link."""

    name: str
    download: Download
    disk: bytearray
    rate: float
    dead: bool = False
    down_at: float = 0.0
    done_at: float = 0.0
    pulled: int = 0


@dataclass
class Net:
    """Devices, the cloud, and messages on their way."""

    blob: bytes
    rng: random.Random
    loss: float = 0.0
    jitter_s: float = 0.0
    now: float = 0.0
    devices: dict[str, Device] = field(default_factory=dict)
    carousel: Carousel | None = None
    sent_bytes: int = 0
    over: bool = False
    queue_most: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.served = Served(self.blob, SIZE)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, name: str, *, rate: float = 2e6, at: float = 0.0) -> Device:
        terms = Terms(shared=5)
        target = target_of(self.blob, size=SIZE, terms=terms)
        device = Device(name, Download(target, tag=name), bytearray(len(self.blob)), rate)
        self.devices[name] = device
        self.later(at, lambda: self.pump(device))
        return device

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay_s, next(self._order), act))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self.later(0.0, self.serve)
        while self._heap and self._heap[0][0] <= end:
            at, _, act = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            act()
        self.now = end

    # --- devices

    def pump(self, device: Device) -> None:
        if device.dead:
            return
        while (wanted := device.download.wanted(self.now)) is not None:
            self.later(0.01, lambda wanted=wanted: self.ask(device, wanted))
        due = device.download.deadline()
        if due is not None:
            self.later(max(due - self.now, 0.001), lambda: self.pump(device))
        elif not device.done_at:
            device.done_at = self.now

    def down(self, device: Device, block: Block, *, to_all: bool = False) -> None:
        """Through the device's own link, at its rate."""
        if self.rng.random() < self.loss:
            return
        device.down_at = max(device.down_at, self.now) + (len(block.data) + 50) / device.rate
        at = device.down_at + self.rng.uniform(0.0, self.jitter_s)

        def arrive() -> None:
            take = device.download.on_broadcast if to_all else device.download.on_block
            for write in take(block, self.now):
                device.disk[write.offset : write.offset + len(write.data)] = write.data
            self.pump(device)

        if not device.dead:
            self.later(at - self.now, arrive)

    # --- the cloud

    def ask(self, device: Device, wanted: BlocksWanted) -> None:
        if not wanted.listening:
            if self.carousel is not None:
                self.carousel.leave(device.name, self.now)
            for block in self.served.answer(wanted):
                device.pulled += len(block.data)
                self.down(device, block)
            return
        if self.carousel is None or self.carousel.closed:
            if self.over or wanted.mark:
                self.refuse(device.name, wanted.id)
                return
            self.carousel = Carousel(-(-len(self.blob) // SIZE), SIZE, self.now)
        self.carousel.hear(
            device.name, wanted.id, first=wanted.first, bitmap=wanted.bitmap, mark=wanted.mark,
            now=self.now,
        )  # fmt: skip

    def refuse(self, name: str, request: str) -> None:
        refusal = Refusal(id=request, code="blob.not_broadcast", text="over", retryable=True)
        device = self.devices[name]
        wait_s = max(0.0, device.down_at - self.now) + 0.01

        def arrive() -> None:
            device.download.on_refusal(refusal, self.now)
            self.pump(device)

        self.later(wait_s, arrive)

    def serve(self) -> None:
        carousel = self.carousel
        while carousel is not None and not carousel.closed:
            step = carousel.step(self.now)
            if step is None:
                break
            if step.say is Say.LEAVE:
                self.refuse(step.device, step.request)
                continue
            index = step.number if step.say is Say.BLOCK else -step.number
            data = self.blob[index * SIZE :][:SIZE] if index >= 0 else b""
            self.sent_bytes += len(data)
            block = Block(digest=self.served.sha256, index=index, data=data, unit=SIZE)
            for device in self.devices.values():
                if device.download.hearing.on:
                    self.down(device, block, to_all=True)
                    queued = int((device.down_at - self.now) * device.rate)
                    most = max(self.queue_most.get(device.name, 0), queued)
                    self.queue_most[device.name] = most
        if carousel is not None and carousel.closed and not self.over:
            self.over = True
            for name, request in carousel.requests().items():
                self.refuse(name, request)
        if not all(d.download.complete or d.dead for d in self.devices.values()):
            self.later(0.005, self.serve)

    def check(self) -> None:
        for device in self.devices.values():
            if not device.dead:
                assert device.download.complete, device.name
                assert bytes(device.disk) == self.blob


def test_fifty_devices_share_one_broadcast():
    blob = random.Random(1).randbytes(4 << 20)
    net = Net(blob, random.Random(1))
    for number in range(50):
        net.add(f"d{number}-", at=0.05 * number)
    net.run(120)
    net.check()
    lists = sum(device.pulled for device in net.devices.values())
    assert net.sent_bytes <= 1.02 * len(blob)
    assert lists <= 50 * 12_000


def test_what_each_missed_is_repaired():
    blob = random.Random(2).randbytes(2 << 20)
    net = Net(blob, random.Random(2), loss=0.05, jitter_s=0.02)
    for number in range(20):
        net.add(f"d{number}-")
    net.run(600)
    net.check()
    repairs = net.sent_bytes - len(blob)
    assert 0 < repairs <= 1.5 * len(blob)  # each pass sends again what any of twenty has lost


def test_a_late_device_gets_what_it_missed_in_the_next_pass():
    blob = random.Random(3).randbytes(4 << 20)
    net = Net(blob, random.Random(3))
    for number in range(5):
        net.add(f"d{number}-", rate=500_000)
    net.add("late-", at=4.0, rate=500_000)
    net.run(120)
    net.check()
    assert net.sent_bytes < 1.6 * len(blob)


def test_a_thin_link_leaves_and_pulls_and_never_has_much_waiting_for_it():
    blob = random.Random(4).randbytes(2 << 20)
    net = Net(blob, random.Random(4))
    for number in range(5):
        net.add(f"d{number}-")
    thin = net.add("thin-", rate=8_000)
    net.run(20)
    assert all(d.download.complete for d in net.devices.values() if d is not thin)
    assert net.queue_most["thin-"] <= 3 * (SIZE + 100)
    net.run(1000)
    net.check()
    assert thin.pulled > len(blob) * 0.9


def test_a_device_that_dies_holds_the_others_up_for_a_moment_only():
    blob = random.Random(5).randbytes(8 << 20)
    net = Net(blob, random.Random(5))
    for number in range(6):
        net.add(f"d{number}-")
    net.later(1.8, lambda: setattr(net.devices["d3-"], "dead", True))
    net.run(60)
    net.check()
    assert max(device.done_at for device in net.devices.values()) < 25


def test_two_devices_are_too_few_and_pull():
    blob = random.Random(6).randbytes(1 << 20)
    net = Net(blob, random.Random(6))
    for number in range(2):
        net.add(f"d{number}-")
    net.run(60)
    net.check()
    assert net.sent_bytes == 0


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 60 * SIZE), st.integers(3, 8), st.floats(0, 0.3),
    st.floats(0, 0.5),
)  # fmt: skip
def test_whatever_is_lost_or_late_every_device_ends_with_the_signed_blob(
    seed: int, length: int, count: int, loss: float, jitter_s: float
):
    rng = random.Random(seed)
    net = Net(rng.randbytes(length), rng, loss=loss, jitter_s=jitter_s)
    for number in range(count):
        net.add(f"d{number}-", at=rng.uniform(0, 5), rate=rng.choice([2e4, 2e5, 2e6]))
    net.run(20_000)
    net.check()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_that_a_device_says_breaks_the_sender(data: st.DataObject):
    carousel, now = Carousel(20, SIZE, 0.0), 0.0
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.floats(0, 3))
        if data.draw(st.booleans()):
            carousel.hear(
                data.draw(st.sampled_from("abcd")), "r",
                first=data.draw(st.integers(-5, 2**40)),
                bitmap=data.draw(st.binary(max_size=9)),
                mark=data.draw(st.integers(-2, 30)),
                now=now,
            )  # fmt: skip
        else:
            carousel.leave(data.draw(st.sampled_from("abcd")), now)
        step = carousel.step(now)
        if step is not None and step.say is Say.BLOCK:
            assert 0 <= step.number < 20


def test_the_patience_of_both_sides_fits_together():
    assert broadcast.MARK_AGAIN_S < broadcast.SILENT_S
