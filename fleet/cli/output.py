"""What commands print: tables or JSON, progress on standard error, errors in one form.

Rules:
- Data goes to standard output; progress, hints and errors go to standard error.
- ``--json`` prints exactly one JSON document; nothing else reaches standard output.
- Exit status: 0 done, 1 an error of ours, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fleet.errors import OutriderError

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


def emit(data: Any, *, as_json: bool, human: Callable[[], None]) -> None:
    """Print `data` as one JSON document, or let `human` print it for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, default=str, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        human()


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = ""
) -> None:
    """Print a table, or `empty` when it would have no rows."""
    listed = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not listed:
        out.print(empty or f"{title}: none", highlight=False)
        return
    view = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in listed:
        view.add_row(*row)
    out.print(view)


def progress() -> Progress:
    """A progress display on standard error; silent when that is not a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def guarded(run: Callable[[], object]) -> int:
    """Run a command; turn errors into a message and an exit status."""
    try:
        code = run()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        err.print("interrupted", style="yellow")
        return 130
    except OutriderError as error:
        _say(error)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def _say(error: OutriderError) -> None:
    if "--json" in sys.argv:
        document = {
            "error": {"code": error.code, "message": str(error), "retryable": error.retryable}
        }
        sys.stdout.write(json.dumps(document) + "\n")
    err.print(f"[red]error[/red] [dim]({error.code})[/dim] ", end="")
    err.print(str(error), markup=False, highlight=False)
