"""Making an installation out of an empty folder, and making sure of an existing one.

Rules:
- Every step looks first whether its result is there: running it again, also after a kill in the middle,
  completes what is missing and changes nothing else.
- ``cloud.json`` comes first: a folder that has things but no ``cloud.json`` is not ours and is left alone.
- Secrets are readable by their owner only.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cloud import context as cloud_context
from cloud import settings
from cloud.auth import rollover, tokens
from cloud.auth.ca import Authority
from cloud.auth.pki import Pki
from cloud.auth.roles import Role
from cloud.broker import server
from cloud.broker.keys import BrokerKeys
from cloud.context import Context
from cloud.errors import DataDirError, SettingsError, UnauthenticatedError
from cloud.services import trust
from cloud.settings import Endpoints, Settings
from ota.signing import secret_files

LOCK = ".lock"
_HOST = re.compile(r"[A-Za-z0-9.:-]{1,253}\Z")
PORTS = ("api_port", "enrol_port", "broker_port", "broker_client_port")
_MAY_COME_FIRST = {LOCK, "cloud.new"}
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Installation:
    """An installation that can be started."""

    settings: Settings
    endpoints: Endpoints
    listeners: server.Listeners
    broker_keys: BrokerKeys


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Keep others from starting on the same data directory.

    Raises:
        DataDirError: somebody has started on it already, or it cannot be used.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DataDirError(f"{data}: expected a folder to write to, found {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DataDirError(
            f"{data}: another `outrider up` runs on this folder; end it, or choose another --data"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def initialise(data: Path, *, say: Say = lambda _: None, **overrides: Any) -> Installation:
    """Complete the installation in `data`; the caller holds its lock.

    Args:
        data: the data directory.
        say: told what is done next.
        overrides: settings to change, kept for the next time.

    Raises:
        DataDirError: the folder is somebody else's, or a file of it is damaged.
        SettingsError: a setting is wrong.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_ours(data)
    say("settings and ports")
    chosen = _settle(data, overrides)
    say("certificates")
    authority = _certificates(chosen)
    say("broker")
    listeners = server.Listeners(chosen.host, chosen.broker_port, chosen.broker_client_port)
    pki = Pki(chosen.path("ca"))
    tls = server.Tls(pki.server.certificate, pki.server.key, pki.bundle)
    keys = server.install(chosen.path("broker"), listeners, tls)
    say("registry")
    context = cloud_context.build(chosen)
    try:
        say("signing keys and repositories")
        trust.initialise(context)
        say("admin token")
        _admin_token(context)
    finally:
        context.engine.dispose()
    endpoints = _endpoints(chosen, authority)
    return Installation(chosen, endpoints, listeners, keys)


def _check_ours(data: Path) -> None:
    present = {path.name for path in data.iterdir()}
    if "cloud.json" not in present and present - _MAY_COME_FIRST:
        stranger = min(present - _MAY_COME_FIRST)
        raise DataDirError(
            f"{data}: expected an empty folder or an installation (with cloud.json), "
            f"found {stranger!r}; choose another --data"
        )


def _settle(data: Path, overrides: dict[str, Any]) -> Settings:
    chosen = settings.load(data, **overrides)
    for name in ("host", "public_host"):
        _check_host(name, getattr(chosen, name))
    if chosen.reachable_host in settings.WILDCARDS:
        raise SettingsError(
            f"public_host: expected the name by which devices reach this machine, because it listens on "
            f"every address ({chosen.host}); give --public-host"
        )
    open_ports = [name for name in PORTS if getattr(chosen, name) == 0]
    drawn = dict(zip(open_ports, _free_ports(chosen.host, len(open_ports)), strict=True))
    chosen = msgspec.structs.replace(chosen, **drawn)
    settings.save(chosen)
    return chosen


def _check_host(name: str, host: str) -> None:
    if host and not _HOST.match(host):
        raise SettingsError(f"{name}: expected a host name or an address, found {host!r}")


def _free_ports(host: str, count: int) -> list[int]:
    """Ports that are free now, all different because all are held at the same time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket(family)) for _ in range(count)]
        try:
            for each in held:
                each.bind((host, 0))
        except OSError as error:
            raise SettingsError(
                f"host: expected an address of this machine, found {host!r} ({error})"
            ) from None
        return [int(each.getsockname()[1]) for each in held]


def _certificates(chosen: Settings) -> Authority:
    hosts = [chosen.reachable_host, chosen.local_host, *_LOCAL_HOSTS]
    pki = Pki(chosen.path("ca"))
    rollover.complete(pki)
    authority = pki.prepare(hosts, now=time.time())
    rollover.complete(pki)
    return authority


def _admin_token(context: Context) -> None:
    path = context.settings.path("admin.token")
    if path.exists():
        try:
            with context.read() as session:
                tokens.authenticate(session, path.read_text().strip(), now=context.clock())
        except UnauthenticatedError:
            pass
        else:
            return
    with context.unit() as unit:
        issued = tokens.issue(unit, context.ids, name="admin", role=Role.ADMIN, by="cloud")
        secret_files.write(path, issued.secret.encode() + b"\n")


def _endpoints(chosen: Settings, authority: Authority) -> Endpoints:
    api = f"http://{_in_url(chosen.local_host)}:{chosen.api_port}"
    endpoints = Endpoints(
        api=api,
        enrol=f"https://{_in_url(chosen.reachable_host)}:{chosen.enrol_port}",
        broker_host=chosen.reachable_host,
        broker_port=chosen.broker_port,
        ca_sha256=authority.sha256(),
        dashboard=f"{api}/",
    )
    document = msgspec.json.format(msgspec.json.encode(endpoints), indent=2)
    secret_files.write(chosen.path("endpoints.json"), document + b"\n")
    return endpoints


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
