"""``outrider worker``: take compile jobs from the cloud's queue and do them on this machine."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import platform
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloud.cli.written import duration
from cloud.errors import WorkerError
from compiler.toolchains import catalog, install
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

if TYPE_CHECKING:
    from cloud.worker.crew import Crew, Options

GRACE_S = 20.0


@click.command(short_help="Do compile jobs on this machine.")
@click.option(
    "--toolchain",
    "toolchains",
    multiple=True,
    metavar="NAME",
    help="Take jobs for targets that this toolchain leads; repeatable.  [default: all that are installed]",
)
@click.option("--name", default="", help="Name of this worker.  [default: this machine's]")
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Jobs at a time."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to work in, emptied at each start.  [default: ~/.cache/outrider/workers/NAME]",
)
@click.option("--once", is_flag=True, help="Take one job, then end; status 1 when it failed.")
@click.option(
    "--grace",
    default=f"{GRACE_S:.0f}s",
    show_default=True,
    metavar="TIME",
    help="How long a job may go on after SIGTERM or Ctrl-C; then it is handed back.",
)
@remote_options
def command(
    toolchains: tuple[str, ...],
    *,
    name: str,
    jobs: int,
    work: Path | None,
    once: bool,
    grace: str,
    server: str,
    token: str,
) -> int:
    """Take compile jobs from the cloud's queue and do them here, until Ctrl-C or SIGTERM.

    The worker needs a token of the role worker, and reaches two addresses: the cloud's API, for papers,
    model folders and results, and the cloud's broker, for the queue. It takes the jobs of targets whose
    leading toolchain it has. A job whose worker dies goes to another one; one that is done is entered once.

    \b
    Examples:
      outrider worker                             # everything that is installed here
      outrider worker --toolchain tensorrt-rtx    # only what this toolchain leads
      outrider worker --once                      # one job, then end
    """
    from cloud.worker.crew import Crew, Options
    from cloud.worker.remote_desk import RemoteDesk

    chosen = _toolchains(toolchains)
    name = name or re.sub(r"[^A-Za-z0-9_-]", "-", platform.node())[:64] or "worker"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (work or cache / "outrider" / "workers" / name).absolute()
    remote = Remote.find(server, token)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("nats").setLevel(logging.ERROR)
    with _alone_in(folder):
        options = Options(folder=folder / "units", jobs=1 if once else jobs, once=once)
        crew = Crew(RemoteDesk(remote, name=name, toolchains=chosen), options)
        output.err.print(
            f"worker {name} for {remote.url}: {', '.join(chosen)}", highlight=False, markup=False
        )
        return asyncio.run(_run(crew, options, duration(grace)))


async def _run(crew: Crew, options: Options, grace_s: float) -> int:
    loop = asyncio.get_running_loop()
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 1 and crew.busy:
            output.err.print(f"stopping; a job under way has {grace_s:.0f} s", highlight=False)
        crew.stop(grace_s=grace_s if asked == 1 and crew.busy else 0.0)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await crew.run()
    return 1 if options.once and crew.failed else 0


def _toolchains(wanted: tuple[str, ...]) -> list[str]:
    """The toolchains to take jobs for; says what else their targets would use.

    Raises:
        WorkerError: one is not known or not installed, or none is.
    """
    from cloud.work import routing

    known = catalog.names()
    for name in wanted:
        if name not in known:
            raise WorkerError(
                f"--toolchain: expected one of {', '.join(known)}, found {name!r}; see `outrider toolchain list`"
            )
    present = [name for name in known if install.is_installed(catalog.get(name))]
    absent = [name for name in wanted if name not in present]
    if absent or not present:
        missing = " ".join(absent)
        raise WorkerError(
            f"expected {missing or 'a toolchain'} to be installed here, found {', '.join(present) or 'none'}; "
            f"run: outrider toolchain install {missing}".rstrip()
        )
    chosen = sorted(set(wanted)) or present
    if beside := sorted(routing.companions(chosen) - set(present)):
        output.err.print(
            f"not installed here, so recipes that use it are skipped: {', '.join(beside)}; "
            f"run: outrider toolchain install {' '.join(beside)}",
            style="yellow",
            highlight=False,
        )
    return chosen


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a second worker out of the folder.

    Raises:
        WorkerError: one works there, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise WorkerError(f"{folder}: expected a folder to work in, found {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise WorkerError(
            f"{folder}: another worker works here; end it, or give this one a --name and a --work of its own"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
