"""How states read on the screen: one clear word for each, and whether it is good news.

Rules:
- A word never stands by colour alone: the page gives each kind a shape of its own.
- A state that is not listed is shown as it is, so that nothing is hidden by a newer agent.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from cloud.services.views import DeviceLine
from cloud.services.views.fleet import Drift

Kind = Literal["good", "busy", "warn", "bad", "idle"]


class Word(NamedTuple):
    """A status as people read it."""

    text: str
    kind: Kind


_UPDATE: dict[str, Word] = {
    "idle": Word("nothing assigned", "idle"),
    "waiting": Word("waiting to fetch", "busy"),
    "fetching": Word("fetching", "busy"),
    "staged": Word("staged", "busy"),
    "self_testing": Word("self-testing", "busy"),
    "activating": Word("activating", "busy"),
    "probation": Word("on probation", "busy"),
    "committed": Word("running", "good"),
    "measured": Word("measured for the cloud", "good"),
    "rolling_back": Word("rolling back", "warn"),
    "failed": Word("failed, rolled back", "bad"),
    "incompatible": Word("cannot run here", "warn"),
    "refused": Word("refused", "bad"),
}
_ROLLOUT: dict[str, Word] = {
    "draft": Word("draft", "idle"),
    "awaiting_approval": Word("awaiting approval", "idle"),
    "scheduled": Word("scheduled", "idle"),
    "running": Word("running", "busy"),
    "paused": Word("paused", "warn"),
    "succeeded": Word("succeeded", "good"),
    "aborted": Word("aborted", "bad"),
    "rolled_back": Word("rolled back", "warn"),
}
_WAVE: dict[str, Word] = {
    "pending": Word("pending", "idle"),
    "running": Word("running", "busy"),
    "soaking": Word("soaking", "busy"),
    "gating": Word("at the gate", "busy"),
    "passed": Word("passed", "good"),
    "failed": Word("failed", "bad"),
    "inconclusive": Word("inconclusive", "warn"),
}
_MEMBER: dict[str, Word] = {
    "pending": Word("waiting", "idle"),
    "assigned": Word("updating", "busy"),
    "stale": Word("no answer", "warn"),
    "committed": Word("updated", "good"),
    "failed": Word("failed", "bad"),
    "incompatible": Word("cannot run it", "idle"),
    "restored": Word("restored", "good"),
}
_JOB: dict[str, Word] = {
    "queued": Word("queued", "idle"),
    "running": Word("compiling", "busy"),
    "done": Word("done", "good"),
    "failed": Word("failed", "bad"),
    "set_aside": Word("set aside", "bad"),
    "cancelled": Word("cancelled", "idle"),
}
_ARTIFACT: dict[str, Word] = {
    "accepted": Word("accepted", "good"),
    "proven": Word("proven", "good"),
    "unproven": Word("unproven", "warn"),
    "rejected": Word("rejected", "bad"),
}


_TRIAL: dict[str, Word] = {
    "queued": Word("waits for its device", "idle"),
    "running": Word("on trial", "busy"),
    "proven": Word("proven", "good"),
    "refused": Word("refused", "bad"),
    "cancelled": Word("called off", "idle"),
    "expired": Word("no answer in time", "warn"),
}


_CAMPAIGN: dict[str, Word] = {
    "open": Word("waits for a decision", "warn"),
    "started": Word("jobs queued", "good"),
    "dismissed": Word("dismissed", "idle"),
}


def campaign(state: str) -> Word:
    """Where a rebuild campaign stands."""
    return _of(_CAMPAIGN, state)


def trial(state: str) -> Word:
    """Where a trial on a proving device stands."""
    return _of(_TRIAL, state)


def update(state: str) -> Word:
    """The state of a model's update on a device."""
    return _of(_UPDATE, state)


def rollout(state: str) -> Word:
    """The state of a rollout."""
    return _of(_ROLLOUT, state)


def wave(state: str) -> Word:
    """The state of a wave."""
    return _of(_WAVE, state)


def member(state: str) -> Word:
    """Where a device stands within a rollout."""
    return _of(_MEMBER, state)


def step(code: str) -> Word:
    """A line of a rollout's history, by its code: ``device.committed``, ``wave.passed``."""
    kind, _, state = code.partition(".")
    words = {"device": _MEMBER, "wave": _WAVE, "rollout": _ROLLOUT}.get(kind, {})
    return _of(words, state)


def job(state: str) -> Word:
    """The state of a compile job, or of one of its units."""
    return _of(_JOB, state)


def artifact(status: str) -> Word:
    """Whether an artifact passed its gates."""
    return _of(_ARTIFACT, status)


def presence(device: DeviceLine) -> Word:
    """Whether a device is there."""
    if device.revoked:
        return Word("revoked", "bad")
    if device.birth_at is None:
        return Word("enrolled, not seen yet", "idle")
    return Word("online", "good") if device.online else Word("offline", "idle")


def drift(seen: Drift) -> Word:
    """Both verdicts in one word: the device's on its newest window, the registry's on recent ones.

    The registry's ``harmful`` wins, because it pages someone.
    """
    if seen.registry_harmful:
        return Word("harmful drift", "bad")
    if seen.device_changed and seen.registry_changed:
        return Word("drift", "warn")
    if seen.device_changed or seen.registry_changed:
        by = "the device" if seen.device_changed else "the registry"
        return Word(f"drift, says {by}", "warn")
    if not seen.samples and not seen.device_score:
        return Word("not judged yet", "idle")
    return Word("no drift", "good")


def _of(words: dict[str, Word], state: str) -> Word:
    return words.get(state) or Word(state.replace("_", " "), "idle")
