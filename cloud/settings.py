"""Where the cloud keeps its things and where it listens.

Rules:
- Everything lives below one data directory; deleting it forgets the installation.
- Ports that the user did not choose are drawn once and kept in ``cloud.json``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cloud.errors import SettingsError
from fleet.errors import WireError
from fleet.wire import topics

DATA_ENV = "OUTRIDER_DATA"
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to
"""Addresses that mean every one of this machine's, and how it reaches itself then."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The cloud's settings.

    Attributes:
        data: the data directory.
        tenant: the one tenant that this cloud serves.
        host: address that every listener binds to.
        public_host: name or address by which devices reach this host.
        api_port: REST API and dashboard, HTTP.
        enrol_port: enrolment, HTTPS.
        broker_port: MQTT over mTLS.
        mqtt_broker: HOST:PORT of an MQTT broker of the operator's own, where devices and the gateway connect instead.
        broker_client_port: the broker's own protocol (NATS) over mTLS: the work queue, the auth callout.
        database_url: SQLAlchemy URL; empty for ``registry.sqlite`` in the data directory.
        tick_s: how often soak times and timeouts of rollouts are looked at.
        rebuild_campaigns: ``ask`` lets a person start them, ``auto`` starts them when they are raised.
        worker: whether the cloud's own process works on compile jobs too.
        worker_jobs: how many of them at the same time.
        device_certificate_s: how long a device's certificate lasts; the device renews it at two thirds.
        https_above_mib: devices fetch what is longer over HTTPS where they can; 0: nothing by preference.
        redeliver_s: a worker that is silent for so long is taken for dead, and its work is handed out again.
    """

    data: Path
    tenant: str = "default"
    host: str = "127.0.0.1"
    public_host: str = ""
    api_port: int = 0
    enrol_port: int = 0
    broker_port: int = 0
    broker_client_port: int = 0
    mqtt_broker: Annotated[
        str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:]+\]:\d{1,5}|[A-Za-z0-9.-]+:\d{1,5})?$")
    ] = ""
    database_url: str = ""
    tick_s: float = 1.0
    rebuild_campaigns: Literal["ask", "auto"] = "ask"
    worker: bool = True
    worker_jobs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    device_certificate_s: Annotated[float, msgspec.Meta(ge=10.0, le=315_360_000.0)] = 30 * 86400.0
    https_above_mib: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    redeliver_s: Annotated[float, msgspec.Meta(ge=1.0, le=3600.0)] = 30.0

    @property
    def url(self) -> str:
        """Where the registry is."""
        return self.database_url or f"sqlite:///{self.data / 'registry.sqlite'}"

    def device_broker(self, host: str) -> tuple[str, int]:
        """Host and port of the broker that devices use; `host` is how the embedded one is reached."""
        if not self.mqtt_broker:
            return host, self.broker_port
        name, _, port = self.mqtt_broker.rpartition(":")
        return name.strip("[]"), int(port)

    @property
    def reachable_host(self) -> str:
        """The name by which devices reach this host."""
        return self.public_host or self.host

    @property
    def local_host(self) -> str:
        """The address by which this machine reaches its own listeners."""
        return WILDCARDS.get(self.host, self.host)

    def path(self, *parts: str) -> Path:
        """A path below the data directory."""
        return self.data.joinpath(*parts)


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """``endpoints.json``: how to reach a running cloud."""

    api: str
    enrol: str
    broker_host: str
    broker_port: int
    ca_sha256: str
    dashboard: str


def default_data_dir() -> Path:
    """``OUTRIDER_DATA``, else ``~/.local/share/outrider``."""
    return Path(os.environ.get(DATA_ENV) or Path.home() / ".local" / "share" / "outrider")


def load(data: Path, **overrides: Any) -> Settings:
    """The settings of the installation in `data`; defaults where ``cloud.json`` does not say.

    Args:
        data: the data directory; it need not exist.
        overrides: settings by name, stronger than the file.

    Raises:
        SettingsError: ``cloud.json`` cannot be read, names an unknown setting or holds a wrong value.
    """
    file = data / "cloud.json"
    content: dict[str, Any] = {}
    if file.exists():
        try:
            content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as error:
            raise SettingsError(f"{file}: expected a JSON object, found {error}; mend it") from None
    unknown = sorted(set(content) - {f.name for f in msgspec.structs.fields(Settings)})
    if unknown:
        raise SettingsError(f"{file}: unknown setting {unknown[0]!r}; remove it")
    try:
        merged = {**content, **overrides, "data": data.absolute()}
        settings = msgspec.convert(merged, Settings)
        topics.check_id(settings.tenant, what="tenant")
    except (msgspec.ValidationError, WireError) as error:
        raise SettingsError(f"{file}: {error}") from None
    return settings


def save(settings: Settings) -> None:
    """Write ``cloud.json``; the data directory must exist."""
    content = msgspec.structs.asdict(settings)
    del content["data"]
    file = settings.data / "cloud.json"
    temporary = file.with_suffix(".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    temporary.replace(file)
