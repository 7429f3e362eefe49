"""``outrider up``: the cloud on this machine, in one command.

Starts processes rather than importing what they run; what it imports itself makes the installation.
"""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet.cli import output

if TYPE_CHECKING:
    from cloud.bootstrap import Installation
    from cloud.supervise import Spec, Status, Supervisor


@click.command(short_help="Start the cloud: registry, API, dashboard, broker, enrolment.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the installation; made when missing.  [default: OUTRIDER_DATA, else ~/.local/share/outrider]",
)
@click.option("--host", help="Address to listen on, kept for the next time.  [default: 127.0.0.1]")
@click.option("--public-host", help="Name or address by which devices reach this machine; kept.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port of the API and dashboard, kept.  [default: a free one]",
)
@click.option(
    "--enrol-port",
    type=click.IntRange(0, 65535),
    help="Port where devices enrol (HTTPS), kept.  [default: a free one]",
)
@click.option(
    "--broker-port",
    type=click.IntRange(0, 65535),
    help="Port where devices connect (MQTT over mTLS), kept.  [default: a free one]",
)
@click.option(
    "--mqtt-broker",
    metavar="HOST:PORT",
    help="An MQTT broker of your own for the devices (see `outrider broker`), kept.  [default: the built-in one]",
)
@click.option(
    "--worker-port",
    type=click.IntRange(0, 65535),
    help="Port where workers get jobs (NATS over mTLS), kept.  [default: a free one]",
)
@click.option(
    "--worker/--no-worker",
    default=None,
    help="Do compile jobs in the cloud's own process too, or leave all to `outrider worker`; kept.  [default: do]",
)
def command(
    data: Path | None, port: int | None, worker_port: int | None, **chosen: str | int | None
) -> None:
    """Start the whole cloud on this machine and keep it running until Ctrl-C.

    The first start makes everything that is needed: signing keys, a certificate authority, the update
    repositories, the registry, a broker with its own certificates, and an admin token. Later starts go on
    from there, on the same ports. A process that dies is started again.

    \b
    Then, in another terminal:
      export OUTRIDER_DATA=DATA         # how every other command finds this cloud
      outrider device claim camera-1    # prints the command that enrols a device
    """
    from cloud import bootstrap, settings

    wanted = {**chosen, "api_port": port, "broker_client_port": worker_port}
    overrides: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    folder = (data or settings.default_data_dir()).absolute()
    with bootstrap.locked(folder):
        with output.err.status("preparing") as status:
            installation = bootstrap.initialise(
                folder, say=lambda what: status.update(f"preparing: {what}"), **overrides
            )
        _run(installation)


def _run(installation: Installation) -> None:
    from cloud.supervise import Supervisor

    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        run_dir = installation.settings.path("run")
        with Supervisor(pid_dir=run_dir, on_change=_note) as supervisor:
            if _start(installation, supervisor, stop):
                _greet(installation)
                stop.wait()
            output.err.print("stopping", style="dim")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(installation: Installation, supervisor: Supervisor, stop: threading.Event) -> bool:
    """Start both children, the broker first; False when the user did not want to wait."""
    import asyncio

    from cloud.broker import connection, server
    from cloud.readiness import wait_ready

    settings = installation.settings
    route = connection.local_route(settings)

    def broker_is_ready() -> bool:
        return asyncio.run(server.is_ready(route, installation.broker_keys))

    supervisor.start(server.spec(settings.path("broker"), settings.path("logs", "broker.log")))
    with output.err.status("starting the broker"):
        if not wait_ready(supervisor, "broker", broker_is_ready, stop=stop):
            return False
    supervisor.start(_cloud_spec(installation))
    with output.err.status("starting the cloud"):
        return wait_ready(supervisor, "cloud", partial(_api_is_ready, installation), stop=stop)


def _cloud_spec(installation: Installation) -> Spec:
    from cloud.supervise import Spec

    settings = installation.settings
    return Spec(
        name="cloud",
        argv=(sys.executable, "-m", "cloud.main", "--data", str(settings.data)),
        log_path=settings.path("logs", "cloud.log"),
        env={"PYTHONUNBUFFERED": "1"},
    )


def _api_is_ready(installation: Installation) -> bool:
    import urllib.error
    import urllib.request

    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{installation.endpoints.api}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _note(status: Status) -> None:
    from cloud.supervise import State

    if status.state is State.BACKING_OFF:
        output.err.print(
            f"the {status.name} ended ({status.exit_code}); it is started again", style="yellow"
        )


def _greet(installation: Installation) -> None:
    from cloud.dashboard import link

    ends = installation.endpoints
    data = installation.settings.data
    token = (data / "admin.token").read_text().strip()
    rows = [
        ("dashboard", ends.dashboard),
        ("sign in once with", link.issue(ends.api, token) or "the token below"),
        ("and later with", f"the token in {data / 'admin.token'}"),
        ("devices enrol at", ends.enrol),
        ("devices connect to", f"{ends.broker_host}:{ends.broker_port} (MQTT over mTLS)"),
        ("data", str(data)),
    ]
    output.out.print("[bold]Outrider is running[/bold]  (Ctrl-C ends it)")
    for name, value in rows:
        output.out.print(f"  {name:<19}", end="", style="dim", highlight=False)
        output.out.print(value, markup=False, highlight=False, soft_wrap=True)
    output.out.print("\nEnrol a device, from another terminal:", style="dim")
    output.out.print(
        f"  OUTRIDER_DATA={data} outrider device claim camera-1\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
