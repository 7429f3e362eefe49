"""``outrider toolchain``: the isolated environments that compile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from compiler.errors import BuildError
from compiler.toolchains import catalog, driver, install
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.process import Limits
from fleet.cli import output

_MARKS = {
    (False, True): "yes",
    (False, False): "no",
    (True, True): "yours",
    (True, False): "yours, absent",
}
F = TypeVar("F", bound=Callable[..., Any])
_PROBE_LIMITS = Limits(wall_s=120, cpu_s=240, memory_mib=4096)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _names(*, required: bool) -> Callable[[F], F]:
    return click.argument(
        "names",
        nargs=-1,
        required=required,
        type=click.Choice(catalog.names()),
        metavar="[NAME]...",
    )


@click.group(short_help="Install and check the compilers' environments.")
def command() -> None:
    """Toolchains: isolated environments, locked with hashes, that compile steps run in.

    Your own lie in `toolchains/` below the folders in OUTRIDER_PROFILES, else below ~/.config/outrider.

    \b
      outrider toolchain install        # all of them
      outrider toolchain doctor         # do they answer?
    """


@command.command("list")
@_JSON
def list_(*, as_json: bool) -> None:
    """List the toolchains, and which are installed."""
    rows = [_describe(catalog.get(name)) for name in catalog.names()]
    output.emit(
        rows,
        as_json=as_json,
        human=lambda: output.table(
            "Toolchains",
            ["name", "what it does", "installed", "MiB", "folder"],
            [
                [
                    row["name"],
                    row["title"],
                    _MARKS[row["supplied"], row["installed"]],
                    row["size_mib"] or "",
                    row["folder"],
                ]
                for row in rows
            ],
        ),
    )


@command.command("install")
@_names(required=False)
@_JSON
def install_(names: tuple[str, ...], *, as_json: bool) -> None:
    """Install the toolchains NAME, or all that can be; what is there already is left alone.

    Tools that you supply are not installed; `doctor` says what they need. With `uv` where it is on the path, else with `pip`; from the index that they are configured for.
    """
    chosen = [catalog.get(name) for name in names or catalog.names()]
    if not names:
        chosen = [toolchain for toolchain in chosen if toolchain.supplied is None]
    rows = []
    with output.progress() as progress:
        task = progress.add_task("installing", total=len(chosen))
        for toolchain in chosen:
            fresh = install.install(toolchain, lambda text: progress.update(task, description=text))
            progress.advance(task)
            rows.append({**_describe(toolchain), "changed": fresh})
    output.emit(
        rows,
        as_json=as_json,
        human=lambda: output.table(
            "Toolchains",
            ["name", "", "folder"],
            [
                [
                    row["name"],
                    "installed" if row["changed"] else "was installed",
                    row["folder"],
                ]
                for row in rows
            ],
        ),
    )


@command.command()
@_names(required=False)
@_JSON
def doctor(names: tuple[str, ...], *, as_json: bool) -> int:
    """Start each installed toolchain's driver and ask it to import everything it needs."""
    rows = [_diagnose(catalog.get(name)) for name in names or catalog.names()]
    output.emit(
        rows,
        as_json=as_json,
        human=lambda: output.table(
            "Toolchains",
            ["name", "health", "detail"],
            [[row["name"], row["health"], row["detail"]] for row in rows],
        ),
    )
    return 1 if any(row["health"] == "broken" for row in rows) else 0


@command.command()
@_names(required=True)
@_JSON
def remove(names: tuple[str, ...], *, as_json: bool) -> None:
    """Remove the toolchains NAME, older contents included."""
    removed = {name: [str(path) for path in install.remove(catalog.get(name))] for name in names}
    output.emit(
        removed,
        as_json=as_json,
        human=lambda: output.table(
            "Removed",
            ["name", "folder"],
            [[name, path] for name, paths in removed.items() for path in paths],
            empty="nothing was installed",
        ),
    )


def _describe(toolchain: Toolchain) -> dict[str, Any]:
    installed = install.is_installed(toolchain)
    place = install.folder(toolchain)
    if toolchain.supplied is not None:
        place = install.python(toolchain) if installed else Path()
    return {
        "name": toolchain.name,
        "title": toolchain.title,
        "supplied": toolchain.supplied is not None,
        "installed": installed,
        "folder": str(place) if place.name else "",
        "size_mib": toolchain.size_mib,
        "lock_sha256": toolchain.lock_sha256,
        "packages": install.packages(toolchain) if installed else {},
    }


def _diagnose(toolchain: Toolchain) -> dict[str, Any]:
    if not install.is_installed(toolchain):
        detail = install.absence(toolchain)
        return {"name": toolchain.name, "health": "absent", "detail": detail}
    try:
        answer = driver.call(toolchain, "probe", files={}, options={}, limits=_PROBE_LIMITS)
    except BuildError as error:
        return {"name": toolchain.name, "health": "broken", "detail": str(error)}
    packages = install.packages(toolchain)
    detail = f"{len(packages)} packages; {', '.join(map(str, answer.info.get('modules', [])))}"
    if "version" in answer.info:
        detail += f" {answer.info['version']}"
    return {"name": toolchain.name, "health": "well", "detail": detail}
