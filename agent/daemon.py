"""The daemon: puts core, adapters and shell together, and runs them until a signal says to end."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable
from functools import partial
from importlib import metadata

import msgspec

from agent.adapters import clock, disk
from agent.adapters.blobs import Blobs
from agent.adapters.builder import BuildOptions, EngineBuilder
from agent.adapters.builds import Builds
from agent.adapters.control import Server
from agent.adapters.crew import Crew, Loading
from agent.adapters.engines import Engines
from agent.adapters.exports import EngineExporter, Exports, environment_of
from agent.adapters.identity import Enrolment, Identity
from agent.adapters.links import Links
from agent.adapters.listeners import Listeners
from agent.adapters.log import Log
from agent.adapters.mqtt import Endpoint, Link
from agent.adapters.store import Store
from agent.buffer.store import Buffer
from agent.config import Config
from agent.core.context import Settings
from agent.core.core import Core
from agent.core.events import Booted, Stopping
from agent.effects import Effects, Parts
from agent.errors import ConfigError, DiskError
from agent.runtimes import registry
from agent.serving.workers import ProcessWorkers
from agent.shell import Shell


def run(config: Config) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT.

    Raises:
        ConfigError: a runtime is not known.
        EnrolmentError: the device is not enrolled.
        RunningError: another daemon runs on the state directory.
        DiskError: the state directory cannot be used.
    """
    _check_runtimes(config)
    store = Store(config.state_path)
    held = disk.lock(config.state_path / "lock")
    try:
        asyncio.run(_run(config, store))
    finally:
        os.close(held)


async def _run(config: Config, store: Store) -> None:
    identity = Identity(config.state_path)
    enrolment = identity.load()
    engines = _engines(config, identity)
    core = Core(
        _settings(config, enrolment, await environment_of(engines)),
        identity.signer(),
        boot_epoch=secrets.token_hex(8),
        ids=lambda: secrets.token_hex(8),
        utc_offset_s=clock.utc_offset(config.time_zone),
    )
    shell, log = Shell(), Log()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shell.post, Stopping())
    buffer = Buffer(
        config.state_path / "buffer.sqlite",
        max_bytes=int(config.telemetry.buffer_max_mib * (1 << 20)),
    )
    sockets = Listeners(config.serving.host, config.serving.ports, store)
    loading = _loading(config, engines, identity)
    crew = Crew(ProcessWorkers(), store, sockets, shell.post, loading=loading)
    builds = Builds(engines, store, shell.post)
    trusted_now = partial(_trusted_now, core)
    links = Links(enrolment.device, shell.post, core.status)
    links.broker = link = Link(_endpoint(config, identity, enrolment, trusted_now), links.heard)
    blobs = Blobs(enrolment.url, lambda: identity.tls(trusted_now))
    exports = Exports(EngineExporter(engines, store))
    effects = Effects(
        Parts(
            store=store,
            buffer=buffer,
            crew=crew,
            builds=builds,
            link=links,
            log=log,
            state_dir=config.state_path,
            exports=exports,
            blobs=blobs,
            identity=identity,
            trusted_now=trusted_now,
        ),
        shell.post,
    )
    booted = await asyncio.to_thread(_boot, store, identity, buffer)
    booted = await _with_engines(booted, store, engines)
    control = Server(config.state_path, core.status, links)
    log.line("info", "agent.started", "", {"device": enrolment.device, "pid": str(os.getpid())})
    try:
        try:
            await control.start()
        except DiskError as error:  # nobody can ask how it is, but models answer
            log.line("error", error.code, str(error))
        link.start()
        await shell.run(core, effects, booted)
    finally:
        await control.stop()
        await links.stop()
        await asyncio.to_thread(link.stop)
        await effects.end()
        blobs.close()
        await builds.end()
        await crew.end()
        sockets.close()
        store.let_go()
        buffer.close()
        log.line("info", "agent.stopped", "")


def _loading(config: Config, engines: Engines, identity: Identity) -> Loading:
    return Loading(
        threads=config.serving.threads,
        runtime_wrapper=config.runtime_wrapper,
        engine_path=engines.path,
        device_key=identity.public_pem(),
    )


def _trusted_now(core: Core) -> float:
    return core.ctx.trusted_at(clock.monotonic())


def _boot(store: Store, identity: Identity, buffer: Buffer) -> Booted:
    """Read the disk; hash every slot."""
    trust, enrolled = store.load_trust(identity.load())
    device, models = store.load_device(), store.load_models()
    slots = store.hash_slots()
    notes = list(store.notes)
    if buffer.quarantined:
        notes.append(("buffer.quarantined", buffer.quarantined))
    return Booted(
        wall=clock.wall(),
        trust=trust,
        enrolled=enrolled,
        device=device,
        models=models,
        slots=slots,
        runtimes=registry.available(),
        certificate=identity.certificate(),
        notes=notes,
    )


async def _with_engines(booted: Booted, store: Store, engines: Engines) -> Booted:
    """Tell which of the engines in use still fit this device; a system upgrade leaves none."""
    built = {
        store.payload_sha256(record.model, content.slot): content
        for record in booted.models
        for content in (record.active, record.previous, record.candidate)
        if content is not None and content.engine
    }
    held, problem = await engines.current({payload: c.engine for payload, c in built.items()})
    notes = [("engine.unknown", f"TensorRT cannot be asked: {problem}")] if problem else []
    return msgspec.structs.replace(
        booted,
        engines={built[payload].sha256: engine for payload, engine in held.items()},
        notes=[*booted.notes, *notes],
    )


def _engines(config: Config, identity: Identity) -> Engines:
    folder = config.state_path / "engines"
    build = config.build
    return Engines(
        folder,
        EngineBuilder(folder),
        signer=identity.signer(),
        public=identity.load_key().public_key(),
        options=BuildOptions(
            workspace_mib=build.workspace_mib,
            memory_floor_mib=build.memory_floor_mib,
            timeout_s=build.timeout_s,
        ),
        max_bytes=build.cache_max_mib << 20,
    )


def _settings(config: Config, enrolment: Enrolment, environment: dict[str, str]) -> Settings:
    return Settings(
        tenant=enrolment.tenant,
        device=enrolment.device,
        hardware_class=config.hardware_class,
        agent_version=metadata.version("outrider"),
        runtimes=tuple(config.runtimes),
        labels=config.labels,
        environment=environment,
        good_answers=config.probation.good_answers,
        probation_s=config.probation.max_s,
        window_s=config.telemetry.window_s,
        health_s=config.telemetry.health_s,
        build_timeout_s=config.build.timeout_s,
        https=bool(enrolment.url),
    )


def _endpoint(
    config: Config, identity: Identity, enrolment: Enrolment, trusted_now: Callable[[], float]
) -> Endpoint:
    return Endpoint(
        host=config.broker.host or enrolment.broker.host,
        port=config.broker.port or enrolment.broker.port,
        tenant=enrolment.tenant,
        device=enrolment.device,
        tls=lambda: identity.tls(trusted_now),
        keepalive_s=config.broker.keepalive_s,
    )


def _check_runtimes(config: Config) -> None:
    strange = [name for name in config.runtimes if name not in registry.names()]
    if strange:
        known = ", ".join(registry.names())
        raise ConfigError(f"runtimes: expected some of {known}, found {', '.join(strange)}")
