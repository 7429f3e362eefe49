"""``outrider sim``: whole fleets in virtual time, with faults, from one seed."""

from __future__ import annotations

import time

import click
import msgspec

from fleet.cli import output
from simulator.virtual import world
from simulator.virtual.world import FAULTS, Outcome, Spec

_TRACE_LINES = 40


def _parse_faults(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    """The faults of a comma-separated list; ``none`` for none."""
    listed = tuple(dict.fromkeys(name for name in value.split(",") if name and name != "none"))
    unknown = [name for name in listed if name not in FAULTS]
    if unknown:
        raise click.BadParameter(
            f"expected some of {', '.join(FAULTS)} or none, found {unknown[0]!r}"
        )
    return listed


@click.group(short_help="Simulate fleets in virtual time, with faults, and check invariants.")
def command() -> None:
    """Run the real agent core, update verification and cloud services in virtual time.

    One seed decides everything. Faults rage first; then all is healed, and the fleet must converge.
    """


@command.command("run")
@click.option("--devices", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The first seed.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many worlds to run."
)
@click.option(
    "--faults",
    callback=_parse_faults,
    default=",".join(FAULTS),
    show_default=True,
    help="Or: none.",
)
@click.option(
    "--hours",
    type=click.FloatRange(0.05, 1000),
    default=0.5,
    show_default=True,
    help="Virtual time under faults.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def run(
    devices: int, seed: int, seeds: int, faults: tuple[str, ...], hours: float, as_json: bool
) -> int:
    """Simulate worlds until one violates an invariant.

    Example: outrider sim run --devices 20 --seed 7 --faults network,power
    """
    results: list[dict[str, object]] = []
    with output.progress() as bar:
        task = bar.add_task("simulating", total=seeds)
        for number in range(seed, seed + seeds):
            spec = Spec(seed=number, devices=devices, faults=faults, hours=hours)
            began = time.monotonic()
            outcome = world.run(spec)
            results.append(_document(outcome, time.monotonic() - began))
            bar.advance(task)
            if not as_json:
                _tell(outcome, time.monotonic() - began)
            if not outcome.ok:
                break
    if as_json:
        output.emit({"worlds": results, "ok": outcome.ok}, as_json=True, human=lambda: None)
    elif not outcome.ok:
        _tell_violation(outcome)
    return 0 if outcome.ok else 1


@command.command("replay")
@click.option("--devices", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--seed", type=int, required=True)
@click.option("--faults", callback=_parse_faults, default=",".join(FAULTS), show_default=True)
@click.option("--hours", type=click.FloatRange(0.05, 1000), default=0.5, show_default=True)
@click.option(
    "--lines",
    type=click.IntRange(1, world.TRACE_LINES),
    default=_TRACE_LINES,
    show_default=True,
    help="How much of the trace to print.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, trace included.")
def replay(
    devices: int, seed: int, faults: tuple[str, ...], hours: float, lines: int, as_json: bool
) -> int:
    """Run one world again, step by step the same, and print what happened last."""
    outcome = world.run(Spec(seed=seed, devices=devices, faults=faults, hours=hours))
    document = {**_document(outcome, 0.0), "trace": outcome.trace[-lines:]}
    output.emit(document, as_json=as_json, human=lambda: _tell_replay(outcome, lines))
    return 0 if outcome.ok else 1


def _document(outcome: Outcome, took_s: float) -> dict[str, object]:
    document: dict[str, object] = msgspec.to_builtins(outcome)
    del document["trace"]
    return {
        **document,
        "ok": outcome.ok,
        "wall_s": round(took_s, 2),
        "replay": outcome.spec.command(),
    }


def _tell(outcome: Outcome, took_s: float) -> None:
    mark = "[green]held[/green]" if outcome.ok else "[red]violated[/red]"
    speed = outcome.at_s / took_s if took_s else 0.0
    output.out.print(
        f"seed {outcome.spec.seed}: {mark}  {outcome.spec.devices} devices, "
        f"{outcome.at_s / 3600:.2f} h virtual in {took_s:.1f} s ({speed:.0f}x), "
        f"{outcome.steps} steps, {outcome.checks} checks, trace {outcome.digest}",
        highlight=False,
    )
    if outcome.ok:
        happened = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in outcome.figures.items())
        output.out.print(
            f"  converged {outcome.converged_s:.0f} s after healing; {happened}",
            style="dim",
            highlight=False,
        )


def _tell_violation(outcome: Outcome) -> None:
    output.err.print(
        f"[red]violation[/red] at {outcome.at_s:.3f} s of seed {outcome.spec.seed}:",
        highlight=False,
    )
    output.err.print(f"  {outcome.violation}", markup=False, highlight=False)
    output.err.print(f"replay it: {outcome.spec.command()}", markup=False, highlight=False)


def _tell_replay(outcome: Outcome, lines: int) -> None:
    for line in outcome.trace[-lines:]:
        output.out.print(line, markup=False, highlight=False)
    if outcome.ok:
        output.out.print(f"no invariant was violated, trace {outcome.digest}", highlight=False)
    else:
        _tell_violation(outcome)
