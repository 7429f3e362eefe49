"""Waiting for a rollout at a terminal, with a bar per device that moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.progress import Progress, TaskID

from cloud.cli.written import share
from fleet.cli import output
from fleet.cli.errors import NoSuchRolloutError, UnreachableError
from fleet.cli.remote import Remote

POLL_S = 0.5
_AT_REST = frozenset({"succeeded", "paused", "aborted", "rolled_back", "draft"})
_UNREACHABLE_S = 60.0
_STEPS = {
    "waiting": 0.05,
    "fetching": 0.1,
    "staged": 0.6,
    "self_testing": 0.7,
    "activating": 0.8,
    "probation": 0.9,
}

View = dict[str, Any]


def resolve(remote: Remote, name: str) -> str:
    """The id of a rollout from an id, its beginning, or ``latest``.

    Raises:
        NoSuchRolloutError: it is none, or not one alone.
    """
    rollouts = remote.get("/rollouts")
    if name == "latest" and rollouts:
        return str(rollouts[0]["id"])
    found = [str(r["id"]) for r in rollouts if str(r["id"]).startswith(name)]
    if len(found) != 1:
        what = "none" if not found else f"{len(found)} of them"
        raise NoSuchRolloutError(
            f"expected the id of a rollout, the beginning of one, or `latest`; found {what} for {name!r}"
        )
    return found[0]


def until_settled(remote: Remote, rollout: str) -> View:
    """Watch until it has ended or paused."""
    return _watch(remote, rollout, lambda view: view["line"]["state"] in _AT_REST)


def until_restored(remote: Remote, rollout: str) -> View:
    """Watch until every device that is online and was to be restored runs what it ran before."""
    return _watch(
        remote,
        rollout,
        lambda view: all(
            m["at_goal"] or not m["online"] for m in view["members"] if m["state"] == "restored"
        ),
    )


def update_of(member: View) -> str:
    """What a device says of its update, in a word."""
    busy = member["update_state"] == "fetching" and member["progress"]
    state = str(member["update_state"])
    return f"{state} {share(member['progress'])}" if busy else state


def _watch(remote: Remote, rollout: str, done: Callable[[View], bool]) -> View:
    with output.progress() as progress:
        tasks: dict[str, TaskID] = {}
        failing_since = 0.0
        while True:
            try:
                view: View = remote.get(f"/rollouts/{rollout}")
                failing_since = 0.0
            except UnreachableError:
                # A cloud that restarts goes on where it stood, and so does whoever watches it.
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > _UNREACHABLE_S:
                    raise
            else:
                _draw(progress, tasks, view)
                if done(view):
                    return view
            time.sleep(POLL_S)


def _draw(progress: Progress, tasks: dict[str, TaskID], view: View) -> None:
    for member in view["members"]:
        if member["state"] in {"pending", "incompatible"}:
            continue
        name = str(member["device"])
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=1.0)
        text = f"{name}  {member['state']}  {update_of(member)}"
        progress.update(tasks[name], completed=_done(member), description=text)


def _done(member: View) -> float:
    if member["at_goal"] or member["state"] in {"committed", "failed", "stale"}:
        return 1.0
    step = _STEPS.get(str(member["update_state"]), 0.0)
    fetched = 0.5 * member["progress"] if member["update_state"] == "fetching" else 0.0
    return float(step + fetched)
