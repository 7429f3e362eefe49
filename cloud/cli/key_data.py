"""The installation that key commands act on: its data directory, on this machine.

Rules:
- Keys are changed where they lie; no command of these goes over the network.
- What changes the registry waits for nobody: SQLite has one writing process, so the cloud must be down;
  over PostgreSQL it may go on.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cloud.errors import DataDirError

if TYPE_CHECKING:
    from cloud.context import Context

F = TypeVar("F", bound=Callable[..., Any])


def option(command: F) -> F:
    """Add ``--data``."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of the installation.  [default: OUTRIDER_DATA, else ~/.local/share/outrider]",
    )(command)


@contextmanager
def reading(data: Path | None) -> Iterator[Context]:
    """The installation, to look at and to make requests from. Raises DataDirError."""
    from cloud import context, settings

    folder = (data or settings.default_data_dir()).absolute()
    if not (folder / "cloud.json").exists():
        raise DataDirError(
            f"{folder}: expected an installation, found no cloud.json; name it with --data, or make it: outrider up"
        )
    built = context.build(settings.load(folder))
    try:
        yield built
    finally:
        built.engine.dispose()


@contextmanager
def changing(data: Path | None) -> Iterator[Context]:
    """The installation, to change it; with SQLite nobody else may have it open. Raises DataDirError."""
    from cloud import bootstrap

    with reading(data) as context:
        if not context.settings.url.startswith("sqlite"):
            yield context
            return
        with bootstrap.locked(context.settings.data):
            yield context


def person() -> str:
    """Who acts, as the audit log names them."""
    try:
        return f"host:{getpass.getuser()}"
    except (KeyError, OSError):
        return "host:unknown"
