"""``outrider demo``: the whole story on this machine."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Run the story without waiting at its end, print a JSON summary, and exit 0 only if every step did what it should.",
)
@click.option(
    "--model",
    "model_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A model folder of your own (see docs: model folder) instead of the digits.",
)
@click.option(
    "--data",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep everything; a new temporary folder by default, removed at the end.",
)
@click.option(
    "--kill",
    type=click.Choice(["broker", "cloud", "agent"]),
    multiple=True,
    help="Kill this process with SIGKILL at a random moment of the rollout; may be repeated. The story must complete all the same.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Chooses the moments of --kill."
)
def command(
    *, once: bool, model_folder: Path | None, folder: Path | None, kill: tuple[str, ...], seed: int
) -> int:
    """Show the whole way of a model on this machine: compile, prove, sign, deliver, run, watch, roll back.

    Starts a cloud with its broker and three agents as real processes on loopback addresses, and ends
    them again. Without --once it keeps them running at the end, so that you can look around.
    """
    from simulator.demo.story import Plan, Story
    from simulator.demo.world import World

    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise click.BadParameter(f"expected a new or an empty folder, found files in {folder}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    root = folder or Path(tempfile.mkdtemp(prefix="outrider-demo-"))
    started = time.monotonic()
    failure: BaseException | None = None
    story: Story | None = None
    world = World(root.resolve())
    try:
        plan = Plan(root.resolve(), model_folder and model_folder.resolve(), kill, seed)
        story = Story(plan, world, say=_say, began=_began)
        story.run()
        if not once:
            _wait(world)
    except Interrupted as stop:
        click.echo("interrupted; ending every process", err=True)
        failure = stop
    except Exception as error:  # noqa: BLE001 - whatever happened, the summary is printed and the processes end
        failure = error
    finally:
        world.close()
    if once:
        _print_summary(story, failure, time.monotonic() - started)
    if failure is not None:
        click.echo(f"the demo stopped: {failure}; logs: {root / 'logs'}", err=True)
        return 130 if isinstance(failure, Interrupted) else 1
    if folder is None:
        shutil.rmtree(root, ignore_errors=True)
    return 0


def _print_summary(story: Any, failure: BaseException | None, seconds: float) -> None:
    from fleet.cli import output

    steps = [dataclasses.asdict(step) for step in story.steps] if story is not None else []
    summary = {
        "ok": failure is None,
        "error": None if failure is None else str(failure) or type(failure).__name__,
        "seconds": round(seconds, 1),
        "steps": steps,
    }
    output.emit(summary, as_json=True, human=lambda: None)


def _began(step: Any) -> None:
    click.secho(f"{step.number}. {step.title}", bold=True, err=True)


def _say(text: str) -> None:
    click.echo(f"   {text}", err=True)


def _wait(world: Any) -> None:
    click.echo(
        "The fleet goes on running; look around at the dashboard. Ctrl-C ends everything.", err=True
    )
    while world.supervisor.statuses():
        time.sleep(0.5)


class Interrupted(BaseException):
    """Somebody wants the demo to end. Not a KeyboardInterrupt, because model training swallows that."""


def _interrupt(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # ending the processes is not to be interrupted
    raise Interrupted("interrupted")
