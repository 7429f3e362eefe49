"""On what terms a device fetches a blob: how fast, when, by which way. The director signs them.

Rules:
- Times of day are the device's own (its time zone), in whole minutes; a span whose end is not after its
  beginning goes over midnight.
- Canonical JSON knows no fractions: every number here is an integer.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from ota.errors import TransferError

DAY_S: Final = 86_400
_SPAN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])\Z")
MAX_SPANS: Final = 8

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Span = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]\Z")]  # fmt: skip


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an assignment says of how one target is fetched.

    Attributes:
        limit_bytes_s: at most so much is asked for per second; 0: as the link allows.
        quiet: times of day at which nothing is fetched, ``HH:MM-HH:MM`` each.
        https_above_bytes: longer blobs are fetched over HTTPS where that is possible; 0: none is.
        shared: devices of the same wave, which get the same blob at the same time; they may share a
            broadcast.
    """

    limit_bytes_s: Natural = 0
    quiet: Annotated[list[Span], msgspec.Meta(max_length=MAX_SPANS)] = []
    https_above_bytes: Natural = 0
    shared: Natural = 0


def quiet_until(spans: list[str], local_s: float) -> float:
    """For how many seconds it is still quiet; 0.0 where it is not.

    Args:
        spans: as in `Terms`.
        local_s: local time, seconds since local midnight.

    Raises:
        TransferError: a span is none.
    """
    local_s %= DAY_S
    rest = 0.0
    for _ in range(len(spans) + 1):  # spans may touch each other
        longest = max((_rest_of(span, (local_s + rest) % DAY_S) for span in spans), default=0.0)
        if longest <= 0.0 or rest >= DAY_S:
            break
        rest += longest
    return min(rest, float(DAY_S))


def check_spans(spans: list[str]) -> list[str]:
    """Return `spans` when all of them are spans, and leave some time of the day.

    Raises:
        TransferError: they are not.
    """
    if len(spans) > MAX_SPANS:
        raise TransferError(
            f"expected at most {MAX_SPANS} spans of quiet hours, found {len(spans)}"
        )
    if all(quiet_until(spans, minute * 60.0) > 0.0 for minute in range(24 * 60)) and spans:
        raise TransferError(
            f"expected quiet hours that leave some of the day, found {', '.join(spans)}; shorten them"
        )
    return spans


def _rest_of(span: str, local_s: float) -> float:
    found = _SPAN.match(span)
    if found is None:
        raise TransferError(f"expected quiet hours as HH:MM-HH:MM, found {span[:40]!r}; mend them")
    hour, minute, to_hour, to_minute = map(int, found.groups())
    begin, end = hour * 3600 + minute * 60, to_hour * 3600 + to_minute * 60
    length = (end - begin) % DAY_S or DAY_S
    since = (local_s - begin) % DAY_S
    return length - since if since < length else 0.0
