"""``outrider artifact prove | trials | cancel | build | engines``: artifacts in the cloud, on the devices that they are for."""

from __future__ import annotations

import time
from typing import Any

import click

from compiler.errors import NothingToProveError
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

_POLL_S = 1.0
_OPEN = {"queued", "running"}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@click.argument("version", metavar="NAME@VERSION")
@click.option("--target", required=True, help="The target whose artifact is unproven.")
@click.option("--device", default="", help="Which proving device.  [default: the first that can]")
@click.option(
    "--engine", default="", metavar="SHA256", help="An engine for twins that a builder made of it."
)
@click.option("--wait", is_flag=True, help="Wait for the verdict; exit status 1 unless proven.")
@_JSON
@remote_options
def prove(
    version: str,
    *,
    target: str,
    device: str,
    engine: str,
    wait: bool,
    as_json: bool,
    server: str,
    token: str,
) -> int:
    """Try the unproven artifact of NAME@VERSION on a proving device.

    The candidate is signed for that one device. It measures it, lets nobody be answered by it, signs what it
    measured, and goes back to what it ran. Figures within the artifact's tolerance and the target's latency
    gate promote it; then a release takes it.

    \b
    Example:
      outrider device proving jetson-7
      outrider artifact prove detector@3 --target jetson-orin-nano --wait
    """
    remote = Remote.find(server, token)
    sha256 = engine or _newest(remote, version, target)
    trial = remote.post(f"/artifacts/{sha256}/prove", {"device": device})
    if wait:
        trial = _watched(remote, trial)
    output.emit(trial, as_json=as_json, human=lambda: _print(trial))
    return 1 if wait and trial["state"] != "proven" else 0


@click.command()
@click.option("--model", default=None, help="Of this model only.")
@_JSON
@remote_options
def trials(*, model: str | None, as_json: bool, server: str, token: str) -> None:
    """List trials on proving devices, newest first."""
    found = Remote.find(server, token).get("/trials", model=model)
    output.emit(
        found,
        as_json=as_json,
        human=lambda: output.table(
            "trials",
            ["trial", "artifact", "target", "device", "state", "cosine", "p50 ms", "why"],
            [
                [
                    t["id"], f"{t['model']}@{t['version']}", t["target"], t["device"], t["state"],
                    _figure(t, "golden_cosine_min", "{:.5f}"), _figure(t, "latency_ms_p50", "{:.3f}"),
                    t["reason"],
                ]
                for t in found
            ],
            empty="no trials yet; begin one: outrider artifact prove NAME@VERSION --target TARGET",
        ),
    )  # fmt: skip


@click.command()
@click.argument("trial")
@_JSON
@remote_options
def cancel(trial: str, *, as_json: bool, server: str, token: str) -> None:
    """Call the trial TRIAL off; its device goes back to what it ran."""
    ended = Remote.find(server, token).post(f"/trials/{trial}/cancel")
    output.emit(ended, as_json=as_json, human=lambda: _print(ended))


@click.command()
@click.argument("version", metavar="NAME@VERSION")
@click.option("--target", required=True, help="The target whose artifact is built from.")
@click.option("--device", default="", help="Which builder.  [default: the first that runs it]")
@_JSON
@remote_options
def build(
    version: str, *, target: str, device: str, as_json: bool, server: str, token: str
) -> None:
    """Order an engine of NAME@VERSION from a builder device that runs it, for its exact twins.

    The engine comes over the device's own link and is checked against the digest that the device signed. It is
    unproven until another device of the class has reproduced the golden vectors.

    \b
    Example:
      outrider device builder jetson-7
      outrider artifact build detector@3 --target jetson-orin-nano
      outrider artifact engines
      outrider artifact prove detector@3 --target jetson-orin-nano --engine SHA256
    """
    remote = Remote.find(server, token)
    sha256 = _newest(remote, version, target)
    ordered = remote.post(f"/artifacts/{sha256}/engine", {"device": device})
    words = f"ordered from {ordered['device']}: {ordered['id']}"
    output.emit(ordered, as_json=as_json, human=lambda: output.out.print(words, highlight=False))


@click.command()
@_JSON
@remote_options
def engines(*, as_json: bool, server: str, token: str) -> None:
    """List engines that builders were ordered to make, newest first."""
    found = Remote.find(server, token).get("/engines")
    output.emit(
        found,
        as_json=as_json,
        human=lambda: output.table(
            "engines",
            ["order", "artifact", "target", "builder", "state", "arrived", "engine's artifact", "why"],
            [
                [
                    e["id"], f"{e['model']}@{e['version']}", e["target"], e["device"], e["state"],
                    f"{e['progress'] * 100:.0f} %", e["derived"], e["reason"],
                ]
                for e in found
            ],
            empty="no engines yet; order one: outrider artifact build NAME@VERSION --target TARGET",
        ),
    )  # fmt: skip


def _newest(remote: Remote, version: str, target: str) -> str:
    model, at, number = version.partition("@")
    if not at:
        raise click.BadParameter(f"expected NAME@VERSION, for instance digits@1, found {version!r}")
    found = remote.get("/artifacts", model=model, version=number)
    newest: dict[str, Any] | None = next(
        (a for a in found if a["target"] == target and not a["fallback"] and not a["built_by"]),
        None,
    )
    if newest is None:
        known = ", ".join(sorted({a["target"] for a in found})) or "none"
        raise NothingToProveError(
            f"expected a target that {version} was compiled for ({known}), found {target!r}"
        )
    return str(newest["sha256"])


def _watched(remote: Remote, trial: dict[str, Any]) -> dict[str, Any]:
    with output.progress() as progress:
        task = progress.add_task(f"{trial['state']} on {trial['device']}", total=None)
        while trial["state"] in _OPEN:
            time.sleep(_POLL_S)
            trial = remote.get(f"/trials/{trial['id']}")
            progress.update(task, description=f"{trial['state']} on {trial['device']}")
    return trial


def _print(trial: dict[str, Any]) -> None:
    name = f"{trial['model']}@{trial['version']} for {trial['target']}"
    output.out.print(
        f"[bold]{name}[/bold]: {trial['state']} on {trial['device']} (trial {trial['id']})",
        highlight=False,
    )
    if trial["gates"]:
        marks = {True: "met", False: "missed", None: "no limit"}
        rows = [[gate["name"], marks[gate["passed"]], gate["detail"]] for gate in trial["gates"]]
        output.table("limits", ["limit", "", "found"], rows)
    elif trial["reason"]:
        output.out.print(trial["reason"], markup=False, highlight=False)


def _figure(trial: dict[str, Any], name: str, form: str) -> str:
    value = trial["figures"].get(name)
    return "" if value is None else form.format(value)


COMMANDS: tuple[click.Command, ...] = (prove, trials, cancel, build, engines)
