"""Workers: who may take work, known by name, session and a short-lived certificate for the broker.

Rules:
- A name has one process at a time: a new session ends what the last one had under way, because that process
  is gone. Asking again with the session in force renews the certificate and changes nothing else.
- The certificate lets a worker take messages of the work queue and say what became of them, nothing more
  (`cloud.broker.permissions`); what it may do with a unit is decided here, over the API.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from cloud.audit import log
from cloud.auth import ca, tokens
from cloud.auth.ca import Authority
from cloud.broker import work_names
from cloud.context import Context, Unit
from cloud.errors import InputError, UnauthenticatedError
from cloud.services import units
from fleet.registry.repositories import Access, Work
from fleet.registry.tables import Worker

OWN_NAME = "cloud"
"""The worker inside the cloud's process."""
CERTIFICATE_S = 3600.0
KNOWN_S = 7 * 86400.0
"""A worker that was heard of within this time is waited for, also while it is away."""
_MAX_TOOLCHAINS = 64
_MAX_HOST_FIELDS = 32


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """What a worker says of itself.

    Attributes:
        session: the one in force, to keep it; empty for a new process.
        host: what its machine is, as words for people.
    """

    name: str
    session: str
    toolchains: list[str]
    host: dict[str, Any]
    version: str


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A worker's place: its session, and the certificate that the broker lets in."""

    name: str
    session: str
    certificate_pem: str = ""
    expires_at: float = 0.0


def register(
    context: Context,
    authority: Authority,
    given: Introduction,
    *,
    csr_pem: bytes,
    token: str,
    by: str,
) -> Registered:
    """Take a worker in, or renew its certificate.

    Raises:
        InputError: a name that cannot be, or too much of a description.
        EnrolmentError: the certificate request is not usable.
    """
    key = ca.parse_csr(csr_pem)
    with context.unit() as unit:
        worker = introduce(unit, given, ids=context.ids, token=token, by=by)
        issued = ca.issue_worker(
            authority, key, worker=given.name, now=unit.now, lifetime_s=CERTIFICATE_S
        )
        worker.serial = issued.serial
        return Registered(
            name=worker.name,
            session=worker.session,
            certificate_pem=issued.certificate_pem.decode(),
            expires_at=issued.not_after,
        )


def introduce(
    unit: Unit, given: Introduction, *, ids: Callable[[], str], token: str, by: str
) -> Worker:
    """Make or refresh a worker's row; a new session loses what the last one had under way.

    Raises:
        InputError: a name that cannot be, or too much of a description.
    """
    _check(given)
    work = Work(unit.session)
    worker = work.find_worker(given.name)
    if worker is None:
        worker = Worker(
            name=given.name, session="", token=token, registered_at=unit.now, heard_at=unit.now
        )
    fresh = not given.session or worker.session != given.session
    worker.token, worker.heard_at, worker.version = token, unit.now, given.version
    worker.toolchains, worker.host = sorted(set(given.toolchains)), dict(given.host)
    if fresh:
        worker.session, worker.registered_at = ids(), unit.now
        log.record(
            unit,
            actor=by,
            action="worker.register",
            subject=given.name,
            toolchains=worker.toolchains,
            host=worker.host,
        )
    work.add(worker)
    if fresh:
        units.lose(unit, list(work.running_attempts(worker=given.name)))
    unit.publish("worker", worker=given.name)
    return worker


def forget(context: Context, name: str, *, by: str) -> None:
    """Remove a worker: its session ends, its connection is refused, and nobody waits for it.

    Raises:
        NotFoundError: no such worker.
    """
    with context.unit() as unit:
        work = Work(unit.session)
        worker = work.worker(name)
        units.lose(unit, list(work.running_attempts(worker=name)))
        work.forget_worker(worker)
        log.record(unit, actor=by, action="worker.forget", subject=name)
        unit.publish("revoked", worker=name)


def admitted(context: Context, name: str, serial: str) -> bool:
    """Whether the broker may let in the holder of the certificate with that serial number."""
    with context.read() as session:
        worker = Work(session).find_worker(name)
        if worker is None or worker.serial != serial:
            return False
        return not worker.token or _in_force(session, worker.token, context.clock())


def served_elsewhere(context: Context, *, but: str) -> set[str]:
    """Toolchains that workers have which were heard of lately; the worker `but` does not count."""
    since = context.clock() - KNOWN_S
    with context.read() as session:
        found = [it for it in Work(session).workers() if it.name != but and it.heard_at >= since]
        return {toolchain for it in found for toolchain in it.toolchains}


def _in_force(session: Session, token: str, now: float) -> bool:
    try:
        tokens.principal_of(Access(session).token(token), now=now)
    except UnauthenticatedError:
        return False
    return True


def _check(given: Introduction) -> None:
    work_names.check(given.name)
    for toolchain in given.toolchains:
        work_names.check(toolchain)
    if len(given.toolchains) > _MAX_TOOLCHAINS or len(given.host) > _MAX_HOST_FIELDS:
        raise InputError(
            f"expected at most {_MAX_TOOLCHAINS} toolchains and {_MAX_HOST_FIELDS} words on the host, "
            f"found {len(given.toolchains)} and {len(given.host)}"
        )
