"""Units of work from the worker's side: begun, spoken of, handed in; idempotent, whoever asks twice.

Rules:
- The broker hands out, this decides: a unit is begun by one worker at a time, and what a message says
  that came twice, too late or from the dead changes nothing.
- A worker that is silent for `Settings.redeliver_s` is taken for dead once somebody else could go on. When
  it speaks again before anybody has begun, it goes on; when it hands in before anybody else did, it counts.
- Attempts that died or broke are counted; after `MAX_TRIES` the unit is set aside with all their last words.
- Results are checked as if a stranger had made them.
"""

from __future__ import annotations

from typing import Any

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.errors import InputError, WorkerUnknownError
from cloud.services import artifacts, jobs
from cloud.services.artifacts import Prepared
from cloud.work.messages import Attempt, Begun, Handed, Order, Who, made_by
from cloud.work.states import OPEN, UnitEvent, UnitState
from fleet.errors import CallerError
from fleet.registry.repositories import Models, Work
from fleet.registry.tables import WorkAttempt, Worker, WorkUnit

MAX_TRIES = 3
SILENT_SHARE = 0.8
"""Of `redeliver_s`: the broker's and the registry's clocks for silence start at different moments."""
LOST_FACTOR = 3.0
LOG_LENGTH = 16_000


def begin(context: Context, unit_id: str, who: Who) -> Begun:
    """Begin a unit, unless it has ended or somebody else who is alive works on it.

    Raises:
        WorkerUnknownError: the worker must register first.
    """
    with context.unit() as unit:
        work = Work(unit.session)
        worker = _known(unit, who)
        row = work.find_unit(unit_id)
        if row is None or UnitState(row.state) not in OPEN:
            return Begun(order=Order.DROP, unit=unit_id)
        last = work.newest_attempt(unit_id)
        if last is not None and last.state == "running":
            if _alive(context, last, unit.now) and last.session != who.session:
                return Begun(order=Order.LEAVE, unit=unit_id)
            _lose(unit, row, last)
            if UnitState(row.state) not in OPEN:  # that was its last try, and perhaps the job's end
                jobs.settle(unit, row.job)
                return Begun(order=Order.DROP, unit=unit_id)
        number = 1 if last is None else last.number + 1
        begun = WorkAttempt(
            unit=unit_id,
            number=number,
            worker=who.name,
            session=who.session,
            host=dict(worker.host),
            started_at=unit.now,
            heard_at=unit.now,
        )
        work.add(begun)
        jobs.move(row, UnitEvent.BEGIN, unit.now, f"starting on {who.name}")
        row.progress = 0.0
        job = Models(unit.session).job(row.job, for_update=True)
        job.attempts += 1
        jobs.settle(unit, row.job)
        version = Models(unit.session).version(job.model, job.version)
        return Begun(
            order=Order.WORK, unit=unit_id, attempt=number, job=job.id, model=job.model,
            version=job.version, targets=list(row.targets), archive_sha256=version.archive_sha256,
        )  # fmt: skip


def advance(context: Context, at: Attempt, *, progress: float, message: str, said: str) -> bool:
    """Note how far an attempt is; False when the worker shall stop.

    Args:
        context: the cloud.
        at: the attempt.
        progress: a share of one.
        message: what is being done.
        said: the newest lines of the compiler.

    Raises:
        WorkerUnknownError: the worker must register first.
    """
    with context.unit() as unit:
        found = _going_on(unit, at)
        if found is None:
            return False
        row, attempt = found
        attempt.heard_at, attempt.message = unit.now, message[: jobs.MESSAGE_LENGTH]
        attempt.log = said[-LOG_LENGTH:] or attempt.log
        row.progress = min(1.0, max(row.progress, progress))
        row.message = message[:500]
        jobs.settle(unit, row.job)
    return True


def hand_in(context: Context, at: Attempt, handed: Handed) -> UnitState:
    """End a unit with what a worker found; the first one counts, whoever made it.

    Raises:
        InputError: what it hands in is not what was asked for; the attempt has failed then.
        ManifestError: a file is no artifact; likewise.
        WorkerUnknownError: the worker must register first.
    """
    with context.read() as session:
        row = Work(session).unit(at.unit)
        job = Models(session).job(row.job)
        begun = [(it.number, it.session) for it in Work(session).attempts(at.unit)]
    _check_begun(at, begun)
    if UnitState(row.state) not in OPEN:
        return UnitState(row.state)
    try:
        check_report(handed.report, targets=row.targets, model=job.model, version=job.version)
        built = _prepared(context, handed)
        return _enter(context, at, handed.report, built)
    except CallerError as error:
        if not isinstance(error, WorkerUnknownError):
            text = f"{at.who.name} handed in what was not asked for: {error}"
            fail(context, at, message=text, retryable=True)
        raise


def check_sender(context: Context, at: Attempt) -> None:
    """Raise unless the attempt is one that its worker may send files for.

    Raises:
        InputError: it was never begun.
        WorkerUnknownError: the worker must register first.
    """
    with context.read() as session:
        worker = Work(session).find_worker(at.who.name)
        begun = [(it.number, it.session) for it in Work(session).attempts(at.unit)]
    _check_session(worker, at.who)
    _check_begun(at, begun)


def fail(
    context: Context, at: Attempt, *, message: str, retryable: bool, said: str = ""
) -> UnitState:
    """End an attempt that could not be done; when another might go better, the unit is queued again.

    Raises:
        WorkerUnknownError: the worker must register first.
    """
    with context.unit() as unit:
        found = _going_on(unit, at)
        if found is None:
            return UnitState(Work(unit.session).unit(at.unit).state)
        row, attempt = found
        attempt.log = said[-LOG_LENGTH:] or attempt.log
        _end(attempt, "failed", message, unit.now)
        if retryable:
            _count(unit, row, message)
        else:
            jobs.move(row, UnitEvent.FAIL, unit.now, message)
        jobs.settle(unit, row.job)
        return UnitState(row.state)


def hand_back(context: Context, at: Attempt) -> None:
    """A worker that has to go gives its unit back; that is nobody's failure.

    Raises:
        WorkerUnknownError: the worker must register first.
    """
    with context.unit() as unit:
        found = _going_on(unit, at)
        if found is not None:
            row, attempt = found
            _end(attempt, "handed_back", "handed back", unit.now)
            jobs.move(row, UnitEvent.HAND_BACK, unit.now, f"handed back by {at.who.name}")
            row.progress = 0.0
            jobs.settle(unit, row.job)


def lose_silent(context: Context) -> list[str]:
    """Give up attempts that nobody has spoken of for long; returns their units that wait again."""
    limit = context.clock() - LOST_FACTOR * context.settings.redeliver_s
    with context.read() as session:
        if all(it.heard_at >= limit for it in Work(session).running_attempts()):
            return []
    with context.unit() as unit:
        silent = [it for it in Work(unit.session).running_attempts() if it.heard_at < limit]
        return lose(unit, silent)


def lose(unit: Unit, attempts: list[WorkAttempt]) -> list[str]:
    """Give up running attempts; returns their units that wait again."""
    work, waiting = Work(unit.session), list[str]()
    for attempt in attempts:
        row = work.unit(attempt.unit)
        _lose(unit, row, attempt)
        jobs.settle(unit, row.job)
        if UnitState(row.state) in OPEN:
            waiting.append(row.id)
            unit.publish("unit", unit=row.id)
    return waiting


def check_report(report: Any, *, targets: list[str], model: str, version: str) -> None:
    """Raise InputError unless `report` speaks of exactly this work."""
    try:
        about = (str(report["model"]["name"]), str(report["model"]["version"]))
        found = [str(result["target"]) for result in report["targets"]]
        for result in report["targets"]:
            chosen, status = result.get("chosen"), result.get("status")
            if status not in {"accepted", "unproven", "rejected"}:
                raise InputError(
                    f"report: expected a verdict on {result['target']}, found {status!r}"
                )
            if (chosen is None) != (status == "rejected") or (chosen and not chosen["sha256"]):
                raise InputError(
                    f"report: {result['target']} is {status}, which its artifact belies"
                )
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"expected a compile report, found one without {error}") from None
    if about != (model, version):
        raise InputError(f"expected a report on {model}@{version}, found {about[0]}@{about[1]}")
    if sorted(found) != sorted(targets):
        raise InputError(f"expected a report on {targets}, found one on {found}")


def _prepared(context: Context, handed: Handed) -> list[Prepared]:
    """The artifacts that the report names, and no others. Raises InputError."""
    wanted = {str(it["sha256"]): target for target, it in made_by(handed.report)}
    fallbacks = {
        str(it["fallback"]["sha256"]) for it in handed.report["targets"] if it.get("fallback")
    }
    built = [
        artifacts.prepare(context, file.read_bytes(), fallbacks=fallbacks) for file in handed.files
    ]
    found = {it.sha256: it.manifest.target for it in built}
    if found != wanted:
        raise InputError(f"expected the artifacts that the report names ({wanted}), found {found}")
    return built


def _enter(
    context: Context, at: Attempt, report: dict[str, Any], built: list[Prepared]
) -> UnitState:
    with context.unit() as unit:
        worker = _known(unit, at.who)
        work = Work(unit.session)
        row = work.unit(at.unit)
        if UnitState(row.state) not in OPEN:
            return UnitState(row.state)
        job = Models(unit.session).job(row.job, for_update=True)
        where = {"worker": at.who.name, "host": dict(worker.host)}
        results = {str(it["target"]): {**it, "compiled_by": where} for it in report["targets"]}
        for prepared in built:
            target = prepared.manifest.target
            artifacts.enter(
                unit, prepared, model=job.model, version=job.version, result=results[target]
            )
        row.report = {**report, "targets": list(results.values())}
        row.progress = 1.0
        _end_attempts(unit, at)
        jobs.move(row, UnitEvent.FINISH, unit.now, "done")
        log.record(
            unit,
            actor=f"worker:{at.who.name}",
            action="compile.finish",
            subject=f"{job.model}@{job.version}",
            job=job.id,
            attempt=at.number,
            host=dict(worker.host),
            artifacts={it.manifest.target: it.sha256 for it in built},
        )
        jobs.settle(unit, row.job)
        unit.publish("model", model=job.model, version=job.version)
        return UnitState(row.state)


def _end_attempts(unit: Unit, at: Attempt) -> None:
    """The attempt is done, also one that had been given up; whoever else works on it shall stop."""
    for attempt in Work(unit.session).attempts(at.unit):
        if attempt.number == at.number and attempt.session == at.who.session:
            _end(attempt, "done", "done", unit.now)
        elif attempt.state == "running":
            _end(attempt, "cancelled", f"{at.who.name} was first", unit.now)


def _known(unit: Unit, who: Who) -> Worker:
    worker = _check_session(Work(unit.session).find_worker(who.name), who)
    worker.heard_at = unit.now
    return worker


def _check_session(worker: Worker | None, who: Who) -> Worker:
    if worker is None or worker.session != who.session:
        raise WorkerUnknownError(
            f"expected a registered worker, found {who.name!r} with a session that is not in force; register again"
        )
    return worker


def _check_begun(at: Attempt, begun: list[tuple[int, str]]) -> None:
    if (at.number, at.who.session) not in begun:
        raise InputError(
            f"expected an attempt at {at.unit} that {at.who.name} began, found number {at.number}"
        )


def _going_on(unit: Unit, at: Attempt) -> tuple[WorkUnit, WorkAttempt] | None:
    """The unit and the attempt when it is still the one that counts; else None.

    An attempt that was given up while its worker could not be heard goes on, as long as nobody else began.
    """
    _known(unit, at.who)
    work = Work(unit.session)
    row, attempt = work.find_unit(at.unit), work.newest_attempt(at.unit)
    if row is None or attempt is None or UnitState(row.state) not in OPEN:
        return None
    if (attempt.number, attempt.session) != (at.number, at.who.session):
        return None
    if attempt.state == "died":
        attempt.state, attempt.ended_at = "running", None
        row.tries = max(0, row.tries - 1)
        jobs.move(row, UnitEvent.BEGIN, unit.now, f"{at.who.name} is heard again")
    return (row, attempt) if attempt.state == "running" else None


def _alive(context: Context, attempt: WorkAttempt, now: float) -> bool:
    return now - attempt.heard_at < SILENT_SHARE * context.settings.redeliver_s


def _lose(unit: Unit, row: WorkUnit, attempt: WorkAttempt) -> None:
    text = f"{attempt.worker} was not heard of again after: {attempt.message or 'it began'}"
    _end(attempt, "died", text, unit.now)
    _count(unit, row, text)


def _count(unit: Unit, row: WorkUnit, text: str) -> None:
    """An attempt died or broke: the unit waits for another one, or is set aside."""
    row.tries += 1
    row.progress = 0.0
    if row.tries < MAX_TRIES:
        jobs.move(
            row, UnitEvent.LOSE, unit.now, f"waiting, after {row.tries} lost attempt(s): {text}"
        )
        return
    jobs.move(
        row, UnitEvent.GIVE_UP, unit.now, f"set aside after {row.tries} attempts; the last: {text}"
    )
    log.record(unit, actor="cloud", action="compile.set_aside", subject=row.id, targets=row.targets)


def _end(attempt: WorkAttempt, state: str, message: str, now: float) -> None:
    attempt.state, attempt.ended_at = state, now
    attempt.message = message[: jobs.MESSAGE_LENGTH]
