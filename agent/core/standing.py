"""Why nothing new can be installed now, for a person beside the device.

Rule: nothing here decides anything; what decides says so itself (link, renewal, verification).
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from agent.core.records import Certificate
from agent.core.status import Hold
from ota.errors import VerificationError
from ota.verify import trust
from ota.verify.trust import TrustStore

if TYPE_CHECKING:
    from agent.core.core import Core

CLOCK_TOLERANCE_S: Final = 86_400.0


def holds(core: Core) -> list[Hold]:
    """The reasons while the daemon runs; empty when new assignments can be taken."""
    found = []
    ctx, renewal = core.ctx, core.renewal
    if not ctx.connected:
        code = "link.refused" if renewal.refused else "link.down"
        found.append(Hold(code=code, text=core.link_reason or "no connection was tried yet"))
    found += _certificate(renewal.certificate, ctx.trusted_now())
    if renewal.problem:
        found.append(Hold(code="identity.renewal", text=renewal.problem))
    if not ctx.connected or core.trust.unanswered:
        found += _metadata(core.trust.store, ctx.trusted_now())
    return found + _clock(core)


def on_disk(store: TrustStore, certificate: Certificate) -> list[Hold]:
    """The reasons that the disk tells while no daemon runs."""
    return _certificate(certificate, store.time_floor) + _metadata(store, store.time_floor)


def _certificate(certificate: Certificate, now: float) -> list[Hold]:
    if not 0 < certificate.expires < now:
        return []
    text = (
        f"the device's certificate ended at {moment(certificate.expires)}; another is asked for over HTTPS "
        "as soon as the cloud can be reached"
    )
    return [Hold(code="identity.ended", text=text)]


def _metadata(store: TrustStore, now: float) -> list[Hold]:
    try:
        expired = trust.expired(store, now=now)
    except VerificationError:
        return []  # told when it was found damaged
    text = "; ".join(f"{name} expired at {moment(at)}" for name, at in expired.items())
    fresh = "the cloud has to sign it anew"
    return [Hold(code="metadata.expired", text=f"{text}; {fresh}")] if text else []


def _clock(core: Core) -> list[Hold]:
    """A wrong clock holds nothing up by itself; it explains what a person sees."""
    ctx = core.ctx
    behind_s = ctx.trusted_now() - ctx.wall()
    if behind_s > CLOCK_TOLERANCE_S or (ctx.time_confirmed and -behind_s > CLOCK_TOLERANCE_S):
        text = (
            f"the local clock shows {moment(ctx.wall())}, it is "
            f"{'' if ctx.time_confirmed else 'at least '}{moment(ctx.trusted_now())}; nothing depends on it"
        )
        return [Hold(code="clock.wrong", text=text)]
    return []


def moment(at: float) -> str:
    """A time as people read it."""
    try:
        return dt.datetime.fromtimestamp(at, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f}"
