"""Units of work: begun by one, entered once, counted, set aside; whoever asks twice or too late."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import clouds, work_results
from support.clouds import Cloud

from cloud.errors import InputError, WorkerUnknownError
from cloud.services import jobs, units, views, workers
from cloud.services.workers import Introduction
from cloud.work.messages import Attempt, Begun, Handed, Order, Who
from cloud.work.states import OPEN, UnitState
from fleet.errors import CallerError
from fleet.registry.repositories import Work

SILENCE_S = 30.0


def join(cloud: Cloud, name: str, *, session: str = "") -> Who:
    given = Introduction(
        name=name, session=session, toolchains=["onnx"], host={"cores": 2}, version="1"
    )
    with cloud.context.unit() as unit:
        row = workers.introduce(unit, given, ids=cloud.context.ids, token="", by="ann")
        return Who(name=name, session=row.session)


def submit(cloud: Cloud, *targets: str) -> str:
    return jobs.submit(
        cloud.context, model="digits", version="1", targets=targets or ("onnx-cpu",), by="ann"
    ).id


def job(cloud: Cloud, job_id: str) -> views.JobLine:
    with cloud.context.read() as session:
        return views.job(session, job_id)


def begin(cloud: Cloud, unit: str, who: Who) -> Attempt:
    begun = units.begin(cloud.context, unit, who)
    assert begun.order is Order.WORK
    return Attempt(unit=unit, number=begun.attempt, who=who)


def advance(cloud: Cloud, at: Attempt, progress: float = 0.5, message: str = "busy") -> bool:
    return units.advance(cloud.context, at, progress=progress, message=message, said="said")


def log_of(cloud: Cloud, job_id: str) -> list[tuple[str, str]]:
    with cloud.context.read() as session:
        return [(it.worker, it.state) for it in views.job_log(session, job_id)]


@pytest.fixture
def queued(cloud: Cloud) -> str:
    cloud.publish_model()
    return submit(cloud)


def test_a_job_is_cut_by_the_toolchains_that_its_targets_need(cloud: Cloud) -> None:
    cloud.publish_model()
    line = job(cloud, submit(cloud, "cpu-arm64", "onnx-cpu", "litert-cpu"))
    assert [(it.toolchain, it.targets) for it in line.units] == [
        ("litert", ["cpu-arm64", "litert-cpu"]), ("onnx", ["onnx-cpu"]),
    ]  # fmt: skip


def test_a_target_that_does_not_exist_is_refused_by_name(cloud: Cloud) -> None:
    cloud.publish_model()
    with pytest.raises(InputError, match="no-such-target"):
        submit(cloud, "no-such-target")


def test_the_units_results_are_merged_in_the_jobs_order(cloud: Cloud, tmp_path: Path) -> None:
    cloud.publish_model()
    job_id = submit(cloud, "onnx-cpu", "cpu-arm64")
    a, b = join(cloud, "a"), join(cloud, "b")
    second = begin(cloud, f"{job_id}-1", b)
    assert job(cloud, job_id).state == "running"
    units.hand_in(cloud.context, second, work_results.handed(tmp_path, "cpu-arm64"))
    between = job(cloud, job_id)
    assert (between.state, between.progress) == ("queued", 0.5)
    first = begin(cloud, f"{job_id}-0", a)
    units.hand_in(cloud.context, first, work_results.handed(tmp_path, "onnx-cpu"))
    done = job(cloud, job_id)
    assert (done.state, done.progress) == ("done", 1.0)
    by = [(it["target"], it["compiled_by"]["worker"]) for it in done.report["targets"]]
    assert by == [("onnx-cpu", "a"), ("cpu-arm64", "b")]


def test_two_workers_never_have_the_same_unit(cloud: Cloud, queued: str) -> None:
    a, b = join(cloud, "a"), join(cloud, "b")
    begin(cloud, f"{queued}-0", a)
    assert units.begin(cloud.context, f"{queued}-0", b).order is Order.LEAVE
    assert units.begin(cloud.context, "no-such-unit", b).order is Order.DROP


def test_a_silent_workers_unit_goes_to_another_and_its_words_stay(
    cloud: Cloud, queued: str
) -> None:
    a, b = join(cloud, "a"), join(cloud, "b")
    at = begin(cloud, f"{queued}-0", a)
    advance(cloud, at, message="calibrating")
    cloud.clock.now += SILENCE_S
    begin(cloud, f"{queued}-0", b)
    with cloud.context.read() as session:
        first = views.job_log(session, queued)[0]
    assert (first.state, first.log) == ("died", "said")
    assert "calibrating" in first.message
    assert not advance(cloud, at), "it hears that somebody else goes on"


def test_a_worker_that_is_heard_again_before_anybody_else_goes_on(
    cloud: Cloud, queued: str
) -> None:
    at = begin(cloud, f"{queued}-0", join(cloud, "a"))
    cloud.clock.now += SILENCE_S * units.LOST_FACTOR + 1
    assert units.lose_silent(cloud.context) == [f"{queued}-0"]
    assert job(cloud, queued).state == "queued"
    assert advance(cloud, at)
    assert job(cloud, queued).state == "running"
    assert log_of(cloud, queued) == [("a", "running")]
    with cloud.context.read() as session:
        assert Work(session).open_units()[0].tries == 0, "it never was dead"


def test_what_a_given_up_worker_hands_in_first_counts_and_only_that(
    cloud: Cloud, queued: str, tmp_path: Path
) -> None:
    a, b = join(cloud, "a"), join(cloud, "b")
    late = begin(cloud, f"{queued}-0", a)
    cloud.clock.now += SILENCE_S
    other = begin(cloud, f"{queued}-0", b)
    results = work_results.handed(tmp_path, "onnx-cpu")
    assert units.hand_in(cloud.context, late, results) is UnitState.DONE
    assert not advance(cloud, other)
    again = work_results.handed(tmp_path, "onnx-cpu", recipe="another")
    assert units.hand_in(cloud.context, other, again) is UnitState.DONE
    assert units.hand_in(cloud.context, late, results) is UnitState.DONE
    assert log_of(cloud, queued) == [("a", "done"), ("b", "cancelled")]
    with cloud.context.read() as session:
        assert [it.sha256 for it in views.artifacts(session)] == [results.files[0].name]


def test_a_unit_whose_workers_die_is_set_aside_and_can_be_tried_again(
    cloud: Cloud, queued: str
) -> None:
    for number in range(units.MAX_TRIES):
        at = begin(cloud, f"{queued}-0", join(cloud, f"w{number}"))
        advance(cloud, at, message=f"attempt {number}")
        cloud.clock.now += SILENCE_S * units.LOST_FACTOR + 1
        units.lose_silent(cloud.context)
    ended = job(cloud, queued)
    assert (ended.state, ended.units[0].state) == ("failed", "set_aside")
    assert "set aside after 3 attempts" in ended.message
    assert ended.units[0].last_words == "said"
    assert units.begin(cloud.context, f"{queued}-0", join(cloud, "w9")).order is Order.DROP
    jobs.retry(cloud.context, queued, by="ann")
    begin(cloud, f"{queued}-0", join(cloud, "w9"))
    assert len(log_of(cloud, queued)) == units.MAX_TRIES + 1


def test_a_new_process_of_the_same_name_frees_what_the_old_one_had(
    cloud: Cloud, queued: str
) -> None:
    old = begin(cloud, f"{queued}-0", join(cloud, "a"))
    cloud.notes.clear()
    new = join(cloud, "a")
    assert [note.data["unit"] for note in cloud.notes if note.topic == "unit"] == [f"{queued}-0"]
    begin(cloud, f"{queued}-0", new)
    with pytest.raises(WorkerUnknownError, match="register again"):
        advance(cloud, old)
    assert join(cloud, "a", session=new.session) == new, "renewing papers changes nothing"
    assert log_of(cloud, queued) == [("a", "died"), ("a", "running")]


def test_a_unit_that_is_handed_back_costs_no_try(cloud: Cloud, queued: str) -> None:
    who = join(cloud, "a")
    for _ in range(units.MAX_TRIES + 2):
        units.hand_back(cloud.context, begin(cloud, f"{queued}-0", who))
    assert job(cloud, queued).state == "queued"


def test_a_cancelled_job_takes_no_more(cloud: Cloud, queued: str, tmp_path: Path) -> None:
    at = begin(cloud, f"{queued}-0", join(cloud, "a"))
    jobs.cancel(cloud.context, queued, by="ann")
    assert not advance(cloud, at)
    assert (
        units.hand_in(cloud.context, at, work_results.handed(tmp_path, "onnx-cpu"))
        is UnitState.CANCELLED
    )
    assert (job(cloud, queued).state, log_of(cloud, queued)) == ("cancelled", [("a", "cancelled")])
    assert jobs.cancel(cloud.context, queued, by="ann").state == "cancelled", "twice is once"
    jobs.retry(cloud.context, queued, by="ann")
    assert job(cloud, queued).state == "queued"


def test_rejected_targets_can_be_tried_again_and_accepted_ones_not(
    cloud: Cloud, queued: str, tmp_path: Path
) -> None:
    who = join(cloud, "a")
    rejected = work_results.handed(tmp_path, "onnx-cpu", rejected=("onnx-cpu",))
    units.hand_in(cloud.context, begin(cloud, f"{queued}-0", who), rejected)
    assert (job(cloud, queued).state, job(cloud, queued).message) == (
        "failed",
        "rejected: onnx-cpu",
    )
    jobs.retry(cloud.context, queued, by="ann")
    with pytest.raises(InputError, match="expected one that has ended"):
        jobs.retry(cloud.context, queued, by="ann")
    units.hand_in(
        cloud.context, begin(cloud, f"{queued}-0", who), work_results.handed(tmp_path, "onnx-cpu")
    )
    assert job(cloud, queued).state == "done"
    with pytest.raises(InputError, match="every target has its artifact"):
        jobs.retry(cloud.context, queued, by="ann")


def junk(folder: Path, what: str) -> Handed:
    good = work_results.handed(folder, "onnx-cpu")
    match what:
        case "no report":
            return Handed(report={}, files=good.files)
        case "another model":
            return work_results.handed(folder, "onnx-cpu", model="letters")
        case "artifact of another version":
            other = work_results.handed(folder, "onnx-cpu", version="2")
            return Handed(report={**other.report, "model": good.report["model"]}, files=other.files)
        case "another target":
            return work_results.handed(folder, "cpu-arm64")
        case "no artifact":
            return Handed(report=good.report, files=[])
        case "one too many":
            more = work_results.handed(folder, "cpu-arm64")
            return Handed(report=good.report, files=[*good.files, *more.files])
        case "no package":
            (folder / "junk").write_bytes(b"\x00" * 100)
            return Handed(report=good.report, files=[folder / "junk"])
        case _:
            (target,) = good.report["targets"]
            broken = {**target, "status": "rejected"}
            return Handed(report={**good.report, "targets": [broken]}, files=good.files)


@pytest.mark.parametrize(
    "what",
    [
        "no report", "another model", "artifact of another version", "another target", "no artifact",
        "one too many", "no package", "rejected and chosen",
    ],
)  # fmt: skip
def test_junk_fails_the_attempt_with_the_reason_and_enters_nothing(
    cloud: Cloud, queued: str, tmp_path: Path, what: str
) -> None:
    at = begin(cloud, f"{queued}-0", join(cloud, "a"))
    with pytest.raises(CallerError):
        units.hand_in(cloud.context, at, junk(tmp_path, what))
    assert job(cloud, queued).state == "queued", "another worker may do better"
    assert log_of(cloud, queued) == [("a", "failed")]
    assert "what was not asked for" in job(cloud, queued).message
    with cloud.context.read() as session:
        assert views.artifacts(session) == []


def test_who_never_began_may_hand_in_nothing(cloud: Cloud, queued: str, tmp_path: Path) -> None:
    stranger = Attempt(unit=f"{queued}-0", number=1, who=join(cloud, "b"))
    with pytest.raises(InputError, match="that b began"):
        units.hand_in(cloud.context, stranger, work_results.handed(tmp_path, "onnx-cpu"))
    with pytest.raises(InputError, match="that b began"):
        units.check_sender(cloud.context, stranger)
    assert job(cloud, queued).state == "queued"


def test_jobs_of_before_there_were_units_are_taken_over(cloud: Cloud, queued: str) -> None:
    with cloud.context.unit() as unit:
        for row in Work(unit.session).units(queued):
            unit.session.delete(row)
    assert jobs.adopt(cloud.context) == 1
    assert [it.targets for it in job(cloud, queued).units] == [["onnx-cpu"]]
    assert jobs.adopt(cloud.context) == 0


class RandomLife(RuleBasedStateMachine):
    """Three workers, a clock and an impatient person do anything in any order."""

    @property
    def context(self) -> Any:
        return self.cloud.context

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.cloud = clouds.make(Path(self.folder.name) / "data")
        self.cloud.publish_model()
        self.job = submit(self.cloud, "onnx-cpu", "cpu-arm64")
        self.sessions = {name: join(self.cloud, name) for name in ("a", "b", "c")}
        self.held: list[Attempt] = []
        self.finished = 0
        self.retries = 0

    def teardown(self) -> None:
        self.context.engine.dispose()
        self.folder.cleanup()

    @rule(name=st.sampled_from("abc"), unit=st.integers(0, 1))
    def begin(self, name: str, unit: int) -> None:
        begun: Begun = units.begin(self.context, f"{self.job}-{unit}", self.sessions[name])
        if begun.order is Order.WORK:
            self.held.append(
                Attempt(unit=begun.unit, number=begun.attempt, who=self.sessions[name])
            )

    @precondition(lambda self: self.held)
    @rule(
        pick=st.integers(0, 99),
        what=st.sampled_from(["advance", "finish", "fail", "die", "return"]),
    )
    def speak(self, pick: int, what: str) -> None:
        at = self.held[pick % len(self.held)]
        try:
            self._speak(at, what)
        except WorkerUnknownError:
            assert self.sessions[at.who.name] != at.who, "only an old process is not known"

    def _speak(self, at: Attempt, what: str) -> None:
        if what == "advance":
            advance(self.cloud, at)
        elif what == "finish":
            with self.context.read() as session:
                before = UnitState(Work(session).unit(at.unit).state)
                targets = list(Work(session).unit(at.unit).targets)
            after = units.hand_in(
                self.context, at, work_results.handed(Path(self.folder.name), *targets)
            )
            assert (after is UnitState.DONE) == (before in OPEN | {UnitState.DONE})
            self.finished += before in OPEN
        elif what == "return":
            units.hand_back(self.context, at)
        else:
            units.fail(self.context, at, message="broke", retryable=what == "die", said="")

    @rule(seconds=st.sampled_from([1.0, 20.0, 40.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.cloud.clock.now += seconds
        units.lose_silent(self.context)

    @rule(name=st.sampled_from("abc"))
    def restart(self, name: str) -> None:
        self.sessions[name] = join(self.cloud, name)

    @rule()
    def cancel(self) -> None:
        jobs.cancel(self.context, self.job, by="ann")

    @rule()
    def retry(self) -> None:
        try:
            jobs.retry(self.context, self.job, by="ann")
        except InputError:
            return
        self.retries += 1

    @invariant()
    def the_books_are_in_order(self) -> None:
        with self.context.read() as session:
            work = Work(session)
            rows, line = work.units(self.job), views.job(session, self.job)
            for row in rows:
                running = [it for it in work.attempts(row.id) if it.state == "running"]
                assert len(running) == (row.state == "running")
                assert 0 <= row.tries <= units.MAX_TRIES
                assert (row.state == "set_aside") <= (row.tries == units.MAX_TRIES)
                assert (row.state == "done") == bool(row.report)
            assert self.finished <= len(rows) + self.retries * len(rows)
            opened = any(UnitState(row.state) in OPEN for row in rows)
            assert opened == (line.finished_at is None)
            named = {it["target"] for it in line.report.get("targets", [])}
            assert named == {t for row in rows if row.state == "done" for t in row.targets}


TestRandomLife = RandomLife.TestCase
TestRandomLife.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
