"""The work queue in the real broker: one message for each open unit, whatever the broker forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from support import served
from support.clouds import Clock, Cloud
from support.installation import House, eventually

from cloud.auth.roles import Role
from cloud.broker import connection, work_names
from cloud.broker.work_stream import WorkStream
from cloud.dispatching import Dispatcher
from cloud.errors import QueueError
from cloud.services import jobs, workers
from cloud.work.messages import Who
from cloud.worker.crew import Crew, Options
from cloud.worker.desk import Papers
from cloud.worker.handout import Delivery, Handout
from cloud.worker.remote_desk import RemoteDesk
from fleet.cli.remote import Remote
from fleet.registry.repositories import Audit, Work
from fleet.registry.tables import ModelVersion

REDELIVER_S = 1.0
T = TypeVar("T")


class Desk:
    """The queue from both sides, driven from the test's thread."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.route = connection.local_route(house.context.settings)
        self.client = self.do(connection.connect(self.route, name="test"))
        self.stream = WorkStream(self.client, redeliver_s=REDELIVER_S)
        self.hints: list[dict[str, str]] = []
        self.handout = Handout(self.hints.append)
        papers = Papers(
            who=Who(name="w", session="s"), route=self.route, inbox="_INBOX", lifetime_s=60,
            redeliver_s=REDELIVER_S,
        )  # fmt: skip
        self.do(self.handout.connect(papers))

    def do(self, work: Awaitable[T]) -> T:
        return self.house.loop.run(work)

    def ask(self, toolchain: str = "onnx") -> Delivery | None:
        return self.do(self.handout.ask(toolchain))

    def close(self) -> None:
        self.do(self.handout.close())
        self.do(self.client.close())


@pytest.fixture
def queue(answered: House) -> Iterator[Desk]:
    made = Desk(answered)
    made.do(made.stream.prepare())
    yield made
    made.close()


def submit(house: House, *targets: str) -> str:
    with house.context.unit() as unit:
        if unit.session.get(ModelVersion, ("m", "1")) is None:
            row = ModelVersion(
                model="m", version="1", number=1, folder_sha256="f", archive_sha256="a",
                created_at=unit.now, created_by="t",
            )  # fmt: skip
            unit.session.add(row)
    return jobs.submit(house.context, model="m", version="1", targets=targets, by="t").id


def test_a_unit_has_one_message_until_it_is_done(queue: Desk) -> None:
    assert queue.do(queue.stream.put("onnx", "u1"))
    assert not queue.do(queue.stream.put("onnx", "u1")), "it lies there already"
    assert queue.ask("litert") is None, "another toolchain's worker does not see it"
    taken = eventually(queue.ask, "delivered")
    assert taken.unit == "u1"
    assert queue.ask() is None, "nobody else has it meanwhile"
    assert not queue.do(queue.stream.put("onnx", "u1")), "also while it is worked on"
    queue.do(queue.handout.done(taken))
    eventually(lambda: queue.do(queue.stream.lying()) == set(), "it is gone")
    assert queue.do(queue.stream.put("onnx", "u1")), "and may come again"
    eventually(lambda: {"toolchain": "onnx"} in queue.hints, "workers are told")


def test_a_silent_workers_message_comes_again_and_a_busy_ones_does_not(queue: Desk) -> None:
    queue.do(queue.stream.put("onnx", "u1"))
    taken = eventually(queue.ask, "delivered")

    async def hold() -> None:
        for _ in range(8):
            await queue.handout.keep(taken)
            await asyncio.sleep(REDELIVER_S / 4)
            assert await queue.handout.ask("onnx") is None

    queue.do(hold())
    again = eventually(queue.ask, "delivered again", 10)
    assert again.unit == "u1"
    queue.do(queue.handout.later(again, 0))
    assert eventually(queue.ask, "handed back, delivered at once", 10).unit == "u1"


def test_the_queue_follows_the_registry(queue: Desk) -> None:
    house = queue.house
    queue.do(queue.stream.put("onnx", "left-over"))

    async def start() -> Dispatcher:
        return Dispatcher(house.context)

    dispatcher = queue.do(start())
    try:
        job = submit(house, "onnx-cpu", "cpu-arm64")
        wanted = {work_names.subject("onnx", f"{job}-0"), work_names.subject("litert", f"{job}-1")}
        eventually(lambda: queue.do(queue.stream.lying()) == wanted, "both, and nothing else")
        taken = eventually(queue.ask, "delivered")
        with house.context.unit() as unit:
            unit.publish("unit", unit=taken.unit)
        fresh = eventually(queue.ask, "a fresh message, before the old one is given up", 10)
        assert fresh.unit == taken.unit
        queue.hints.clear()
        jobs.cancel(house.context, job, by="t")
        eventually(lambda: queue.do(queue.stream.lying()) == set(), "cancelled units are taken out")
        eventually(lambda: {"unit": taken.unit} in queue.hints, "and their workers are told")
        assert dispatcher.running
    finally:
        queue.do(dispatcher.stop())


def test_a_broker_that_forgot_everything_is_filled_anew(queue: Desk, monkeypatch) -> None:
    house = queue.house
    job = submit(house, "onnx-cpu")
    monkeypatch.setattr("cloud.dispatching.LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("cloud.dispatching.FULL_LOOK_EVERY", 1)

    async def start() -> Dispatcher:
        return Dispatcher(house.context)

    dispatcher = queue.do(start())
    try:
        wanted = {work_names.subject("onnx", f"{job}-0")}
        eventually(lambda: queue.do(queue.stream.lying()) == wanted, "it is there")
        queue.do(queue.client.jetstream().delete_stream(work_names.STREAM))

        def lying() -> set[str]:
            try:
                return queue.do(queue.stream.lying())
            except QueueError:
                return set()

        eventually(lambda: lying() == wanted, "it is there again", 30)
        assert eventually(queue.ask, "and handed out", 10).unit == f"{job}-0"
    finally:
        queue.do(dispatcher.stop())


def test_without_a_broker_there_is_an_error_of_ours(house: House, tmp_path: Path) -> None:
    class Deaf:
        def jetstream(self, **_: object) -> Deaf:
            return self

        def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
            async def call(*_: object, **__: object) -> None:
                raise TimeoutError

            return call

    stream = WorkStream(Deaf(), redeliver_s=1)  # type: ignore[arg-type]
    with pytest.raises(QueueError, match="does not answer"):
        house.loop.run(stream.take_out("outrider.jobs.onnx.u"))


def test_a_workers_papers_are_renewed_before_they_end(
    answered: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CERTIFICATE_S", 3.0)
    house = answered

    def serial() -> str:
        with house.context.read() as session:
            found = Work(session).find_worker("box")
            return found.serial if found is not None else ""

    async def start(desk: RemoteDesk) -> Crew:
        crew = Crew(desk, Options(folder=tmp_path / "work"))
        crews.append(asyncio.create_task(crew.run()))
        return crew

    crews: list[asyncio.Task[None]] = []
    with served.serve(Cloud(house.context, Clock())) as running:
        remote = Remote(running.url, running.tokens[Role.WORKER])
        crew = house.loop.run(start(RemoteDesk(remote, name="box", toolchains=["onnx"])))
        first = eventually(serial, "registered")
        second = eventually(lambda: serial() != first and serial(), "renewed", 30)
        eventually(lambda: serial() != second, "renewed again", 30)
        eventually(lambda: crew.connected, "and the queue lets it in")
        with house.context.read() as session:
            assert len([it for it in Audit(session).all() if it.action == "worker.register"]) == 1
        crew.stop()
        house.loop.run(crews[0])
