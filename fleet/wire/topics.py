"""Topic names, version 1.

Rules:
- Tenant and device ids match ``[A-Za-z0-9_-]{1,64}``; anything else is refused before it is sent,
  because brokers treat dots, spaces and slashes each in their own way.
- A device publishes only below its own ``up`` and reads only its own ``down`` and ``blob``.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from fleet.errors import WireError

ROOT = "outrider/v1"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Up(str, Enum):
    """What a device sends."""

    BIRTH = "birth"
    STATUS = "status"
    REPORTED = "reported"
    EVENT = "event"
    TELEMETRY = "telemetry"
    REQ = "req"


class Down(str, Enum):
    """What a device is sent."""

    DESIRED = "desired"
    RES = "res"
    BLOB = "blob"
    ACK = "ack"
    CMD = "cmd"
    IDENTITY = "identity"


class UpTopic(NamedTuple):
    """A parsed upward topic."""

    tenant: str
    device: str
    kind: Up


def check_id(value: str, *, what: str) -> str:
    """Return `value` when it is a legal tenant or device id.

    Raises:
        WireError: it is not; the message names `what`.
    """
    if not _ID.match(value):
        raise WireError(
            f"{what} {value!r} is not a legal id: expected 1 to 64 of A-Z a-z 0-9 _ -; rename it",
        )
    return value


def up(tenant: str, device: str, kind: Up) -> str:
    """Topic on which `device` publishes messages of `kind`."""
    return f"{_device_root(tenant, device)}/up/{kind.value}"


def down(tenant: str, device: str, kind: Down) -> str:
    """Topic on which `device` receives messages of `kind`."""
    return f"{_device_root(tenant, device)}/down/{kind.value}"


def down_filter(tenant: str, device: str) -> str:
    """The one filter that a device subscribes to for itself."""
    return f"{_device_root(tenant, device)}/down/+"


def up_filter() -> str:
    """The filter under which the cloud hears every device of every tenant."""
    return f"{ROOT}/+/d/+/up/+"


def broadcast(tenant: str, digest: str) -> str:
    """Topic on which the blocks of one blob are broadcast to a wave."""
    return f"{ROOT}/{check_id(tenant, what='tenant')}/blob/{digest}"


def parse_up(topic: str) -> UpTopic:
    """Split an upward topic into tenant, device and kind.

    Raises:
        WireError: the topic is not of the form ``outrider/v1/T/d/D/up/KIND``.
    """
    parts = topic.split("/")
    if len(parts) != 7 or "/".join(parts[:2]) != ROOT or parts[3] != "d" or parts[5] != "up":
        raise WireError(
            f"topic {topic!r} is not an upward topic: expected {ROOT}/TENANT/d/DEVICE/up/KIND"
        )
    try:
        kind = Up(parts[6])
    except ValueError:
        known = ", ".join(k.value for k in Up)
        raise WireError(f"topic {topic!r} names an unknown kind: expected one of {known}") from None
    return UpTopic(check_id(parts[2], what="tenant"), check_id(parts[4], what="device"), kind)


def parse_down(topic: str) -> Down:
    """Kind of a downward topic that this device received.

    Raises:
        WireError: the topic's last level is not a downward kind.
    """
    try:
        return Down(topic.rsplit("/", 1)[-1])
    except ValueError:
        known = ", ".join(k.value for k in Down)
        raise WireError(f"topic {topic!r} names an unknown kind: expected one of {known}") from None


def _device_root(tenant: str, device: str) -> str:
    return f"{ROOT}/{check_id(tenant, what='tenant')}/d/{check_id(device, what='device')}"
