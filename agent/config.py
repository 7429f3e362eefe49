"""The agent's configuration: ``agent.toml``, strictly checked, each key overridable from the environment.

Rules:
- An unknown key, a wrong type or a value out of range is an error that names the file, the key, what was
  expected and what was found; nothing is guessed.
- ``OUTRIDER_AGENT_SECTION_KEY`` overrides ``[section] key``; a table is written as TOML
  (``OUTRIDER_AGENT_LABELS='{site = "north"}'``). A variable that begins so and names no key is an error.
- Relative paths are relative to the file's folder.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from agent.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "OUTRIDER_AGENT_"
_CLASSES = {"aarch64": "cpu-arm64", "arm64": "cpu-arm64", "x86_64": "cpu-x86-64"}
_LABEL = r"^[A-Za-z0-9_.-]{1,64}$"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=86400.0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Label = Annotated[str, msgspec.Meta(pattern=_LABEL)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class BrokerConfig(Table, frozen=True):
    """``[broker]``: where the broker is, when not where the enrolment says.

    Attributes:
        host: a name that the broker's certificate bears; empty: the enrolment's.
        port: 0: the enrolment's.
        keepalive_s: time after which a silent link counts as dead.
    """

    host: str = ""
    port: Port = 0
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30


class ServingConfig(Table, frozen=True):
    """``[serving]``: where models answer.

    Attributes:
        host: address to listen on.
        threads: of one model's runtime; 0 lets the runtime choose.
        ports: port by model; 0 or missing: a free one, kept from then on.
    """

    host: str = "127.0.0.1"
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 1
    ports: dict[Name, Port] = {}


class TelemetryConfig(Table, frozen=True):
    """``[telemetry]``: windows and their buffer.

    Attributes:
        window_s: length of a window.
        health_s: time between two readings of the sensors.
        buffer_max_mib: bound of the buffer on the disk.
    """

    window_s: Seconds = 60.0
    health_s: Seconds = 300.0
    buffer_max_mib: Annotated[float, msgspec.Meta(ge=0.25, le=65536.0)] = 64.0


class ProbationConfig(Table, frozen=True):
    """``[probation]``: what a new version must show before it is committed.

    Attributes:
        good_answers: answers to applications.
        max_s: when they do not come in this time, the golden vectors run once more and decide.
    """

    good_answers: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10
    max_s: Seconds = 60.0


class BuildConfig(Table, frozen=True):
    """``[build]``: engines that this device makes itself.

    Attributes:
        timeout_s: longest build.
        memory_floor_mib: free memory below which a build does not begin, and is ended.
        workspace_mib: at most so much scratch memory of the GPU; 0: half of what is free.
        cache_max_mib: bound of the engines that are kept; those in use are kept whatever it is.
    """

    timeout_s: Seconds = 7200.0
    memory_floor_mib: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 512
    workspace_mib: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cache_max_mib: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 2048


class Config(Table, frozen=True):
    """The whole file.

    Attributes:
        state_dir: folder of the daemon's state.
        hardware_class: what the fleet calls this hardware; empty: by the machine's architecture.
        runtimes: allowed runtimes; empty: all that are installed.
        time_zone: of the device, for instance ``Europe/Berlin``, by which quiet hours count; empty: the system's.
        runtime_wrapper: ``package.module:function`` around each runtime; empty: none.
    """

    state_dir: str = ""
    hardware_class: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    runtimes: list[str] = []
    runtime_wrapper: str = ""
    time_zone: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+/-]{0,64}$")] = ""
    broker: BrokerConfig = BrokerConfig()
    serving: ServingConfig = ServingConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    probation: ProbationConfig = ProbationConfig()
    build: BuildConfig = BuildConfig()
    labels: dict[Label, Annotated[str, msgspec.Meta(max_length=256)]] = {}

    @property
    def state_path(self) -> Path:
        """The state directory."""
        return Path(self.state_dir)


def load(path: Path | None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration.

    Args:
        path: the file; None: built-in values and the environment only.
        env: environment variables.

    Raises:
        ConfigError: it cannot be read, or a value is wrong.
    """
    data = _read(path) if path is not None else {}
    _override(data, env)
    where = str(path) if path is not None else "configuration"
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{where}: {_explain(error, data)}; see the reference of agent.toml"
        ) from None
    base = path.resolve().parent if path is not None else Path.cwd()
    return msgspec.structs.replace(
        config,
        state_dir=str((base / (config.state_dir or _default_state_dir(env))).resolve()),
        hardware_class=config.hardware_class or _hardware_class(),
    )


def variables() -> dict[str, tuple[str, ...]]:
    """Every environment variable, and the path of the key that it overrides."""
    return {PREFIX + "_".join(key).upper(): key for key in _keys(Config, ())}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: expected the agent's configuration: {error.strerror or error}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from None


def _override(data: dict[str, Any], env: Mapping[str, str]) -> None:
    known = variables()
    for name in sorted(n for n in env if n.startswith(PREFIX)):
        if name not in known:
            raise ConfigError(
                f"{name}: expected one of {', '.join(sorted(known))}; unset it, or mend its name"
            )
        *tables, key = known[name]
        place = data
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{table}: expected a table, found {place!r}")
        place[key] = _value(name, env[name], _type_of(known[name]))


def _value(name: str, text: str, kind: object) -> object:
    if kind is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: expected a TOML value, found {text!r}: {error}") from None


def _keys(table: type[Table], above: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for name, kind in get_type_hints(table).items():
        if isinstance(kind, type) and issubclass(kind, Table):
            found += _keys(kind, (*above, name))
        else:
            found.append((*above, name))
    return found


def _type_of(key: tuple[str, ...]) -> object:
    kind: Any = Config
    for name in key:
        kind = get_type_hints(kind)[name]
    return kind


def _explain(error: msgspec.ValidationError, data: dict[str, Any]) -> str:
    """The key, what was expected, and what was found."""
    text, _, where = str(error).partition(" - at `")
    path = where.rstrip("`").removeprefix("$").removeprefix(".")
    text = text[:1].lower() + text[1:]
    if not path:
        return text
    table, in_table, _ = path.partition("[...]")
    found: Any = data
    for name in table.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return (
        f"{table}: {text}, found {found!r}" if in_table or found is not None else f"{path}: {text}"
    )


def _default_state_dir(env: Mapping[str, str]) -> str:
    given = env.get("STATE_DIRECTORY", "").partition(":")[0]
    return given or str(Path("~/.local/state/outrider-agent").expanduser())


def _hardware_class() -> str:
    return _CLASSES.get(platform.machine(), f"cpu-{platform.machine()}")
