"""Mosquitto as the devices' broker: its configuration, its access list and its revocation list.

Rules:
- Who somebody is, is the CN of a certificate of this fleet's CA; the client id is replaced by it, so that none
  can be stolen. The cloud's and the workers' CNs hold a colon, which no device id may.
- A device says its own ``up`` and hears its own ``down`` (patterns with ``%u``) and the blobs that are assigned to
  it (a line for each). Nothing else is granted; the tenant is this cloud's, and another cloud has another CA.
- A revoked device is denied everything by name. Mosquitto reads access lists again on SIGHUP and applies them to
  connections that stand: it is mute and deaf at once. The revocation list keeps it out from the next start on.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud.auth import crl
from cloud.auth.pki import GATEWAY, Pki
from cloud.context import Context
from fleet.registry.repositories import Devices, Trust
from fleet.wire import topics
from ota.signing import secret_files

CONFIGURATION, ACCESS, REVOKED, PID = "mosquitto.conf", "access.acl", "revoked.pem", "mosquitto.pid"
_MAX_PACKET_BYTES = 1_048_576
_MAX_INFLIGHT_BYTES = 4 << 20
_MAX_QUEUED_BYTES = 8 << 20


@dataclass(frozen=True)
class Listener:
    """Where Mosquitto listens for devices and for the cloud."""

    host: str
    port: int


def configuration(folder: Path, listener: Listener, pki: Pki, owner: str) -> str:
    """The text of ``mosquitto.conf``.

    Args:
        folder: where the other files lie.
        listener: where it listens.
        pki: the fleet's certificates.
        owner: who owns these files, which others may not read; Mosquitto becomes that user when root starts it.
    """
    lines = [
        "# Written by `outrider broker mosquitto-config`; changes are lost.",
        f"user {owner}",
        "per_listener_settings false",
        f"listener {listener.port} {listener.host}",
        f"cafile {pki.bundle}",
        f"certfile {pki.server.certificate}",
        f"keyfile {pki.server.key}",
        f"crlfile {folder / REVOKED}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {folder / ACCESS}",
        f"pid_file {folder / PID}",
        "set_tcp_nodelay true",
        "persistence false",
        f"max_packet_size {_MAX_PACKET_BYTES}",
        f"max_inflight_bytes {_MAX_INFLIGHT_BYTES}",
        f"max_queued_bytes {_MAX_QUEUED_BYTES}",
    ]
    return "\n".join(lines) + "\n"


def access(tenant: str, blobs: Mapping[str, Sequence[str]], revoked: Sequence[str]) -> str:
    """The text of the access list.

    Args:
        tenant: the cloud's.
        blobs: digests of what is assigned, by device.
        revoked: devices that were shut out.

    Raises:
        WireError: a name is not legal, and could be read as something else.
    """
    root = f"{topics.ROOT}/{topics.check_id(tenant, what='tenant')}"
    lines = [
        "# Written by `outrider broker mosquitto-config`; changes are lost.",
        f"user {GATEWAY.name}",
        f"topic read {root}/d/+/up/+",
        f"topic write {root}/d/+/down/+",
        f"topic write {root}/blob/+",
    ]
    for device in sorted(revoked):
        lines += [
            f"user {topics.check_id(device, what='device')}",
            "topic deny #",
            "topic deny $SYS/#",
        ]
    for device, digests in sorted(blobs.items()):
        lines.append(f"user {topics.check_id(device, what='device')}")
        lines += [f"topic read {topics.broadcast(tenant, digest)}" for digest in sorted(digests)]
    lines += [f"pattern write {root}/d/%u/up/{kind.value}" for kind in topics.Up]
    lines.append(f"pattern read {root}/d/%u/down/+")
    return "\n".join(lines) + "\n"


def write(context: Context, folder: Path, listener: Listener) -> bool:
    """Write what Mosquitto needs; returns whether anything that it reads again on SIGHUP has changed.

    Raises:
        DataDirError: the CA is missing or damaged.
    """
    pki = Pki(context.settings.path("ca"))
    with context.read() as session:
        devices = Devices(session)
        everyone = devices.all(revoked=True)
        gone = [device.id for device in everyone if device.revoked_at is not None]
        serials = devices.revoked_serials(context.clock())
        blobs = {
            device.id: sorted(Trust(session).assigned_digests(device.id))
            for device in everyone
            if device.revoked_at is None
        }
    files = {
        CONFIGURATION: configuration(folder, listener, pki, getpass.getuser()).encode(),
        ACCESS: access(
            context.settings.tenant, {d: b for d, b in blobs.items() if b}, gone
        ).encode(),
    }
    changed = [name for name, data in files.items() if _differs(folder / name, data)]
    for name in changed:
        secret_files.write(folder / name, files[name])
    stamp = "\n".join(sorted(serials)).encode() + b"\n" + pki.authorities()
    if _differs(folder / f".{REVOKED}.of", stamp) or not (folder / REVOKED).exists():
        now = context.clock()
        lists = b"".join(crl.write(one, serials, now=now) for one in pki.accepted())
        secret_files.write(folder / REVOKED, lists)
        secret_files.write(folder / f".{REVOKED}.of", stamp)
        changed.append(REVOKED)
    return bool(changed)


def _differs(path: Path, data: bytes) -> bool:
    return not path.exists() or path.read_bytes() != data
