"""``outrider broker``: a broker of one's own in place of the built-in one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import click

from fleet.cli import output

_LOOK_EVERY_S = 1.0


@click.group(short_help="Use a broker of your own for the devices.")
def command() -> None:
    """The devices' broker, where it is not the built-in one.

    \b
    outrider broker mosquitto-config /etc/mosquitto/outrider --port 8883 --follow
    mosquitto -c /etc/mosquitto/outrider/mosquitto.conf
    outrider up --mqtt-broker broker.example.com:8883
    """


@command.command("mosquitto-config")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that it listens on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the installation.  [default: OUTRIDER_DATA, else ~/.local/share/outrider]",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Stay, write again what revocations and assignments change, and tell Mosquitto (SIGHUP).",
)
def mosquitto_config(
    folder: Path, *, host: str, port: int, data: Path | None, follow: bool
) -> None:
    """Write Mosquitto's configuration, access list and revocation list into FOLDER.

    Without --follow run it again after each revocation, and send Mosquitto a SIGHUP.
    """
    from cloud import context, settings
    from cloud.broker import mosquitto

    chosen = settings.load((data or settings.default_data_dir()).absolute())
    built = context.build(chosen)
    listener = mosquitto.Listener(host, port)
    place = folder.absolute()
    try:
        mosquitto.write(built, place, listener)
        output.out.print(str(place / mosquitto.CONFIGURATION), highlight=False, soft_wrap=True)
        while follow:
            time.sleep(_LOOK_EVERY_S)
            if mosquitto.write(built, place, listener):
                tell(place / mosquitto.PID)
    except KeyboardInterrupt:
        return
    finally:
        built.engine.dispose()


def tell(pid_file: Path) -> None:
    """Have Mosquitto read its access list again; one that does not run reads it when it starts."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        os.kill(int(pid_file.read_text()), signal.SIGHUP)
