"""``outrider compile``: a model folder here, or a model version in the cloud."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from compiler.errors import FolderError
from compiler.recipes.catalog import CALIBRATORS
from compiler.service import compile as compiling
from compiler.service.output import PAGE as REPORT_PAGE
from compiler.service.report import Candidate, Report, TargetReport, Verdict
from compiler.targets import catalog
from fleet.cli import output
from fleet.cli.remote import Remote, remote_options

_VERSION = re.compile(r"[A-Za-z0-9_-]{1,64}@[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")
_POLL_S = 0.5
_MARKS = {
    Verdict.ACCEPTED: "[green]accepted[/green]",
    Verdict.PASSED: "[blue]passed[/blue]",
    Verdict.UNPROVEN: "[yellow]unproven[/yellow]",
    Verdict.REJECTED: "[red]rejected[/red]",
    Verdict.FAILED: "[red]failed[/red]",
    Verdict.SKIPPED: "[dim]skipped[/dim]",
}


@click.command(short_help="Compile a model, and prove what comes out.")
@click.argument("source")
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    type=click.Choice(catalog.names()),
    help="Hardware to compile for; repeatable.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Output folder (for a model folder; required)."
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    help="Try this recipe alone instead of the target's ladder; repeatable.",
)
@click.option(
    "--calibrator",
    "calibrators",
    multiple=True,
    type=click.Choice(CALIBRATORS),
    help="Compare this calibrator alone; repeatable.",
)
@click.option(
    "--figures",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file of latencies that devices reported; they replace estimates of this host.",
)
@click.option("--fresh", is_flag=True, help="Compile also what was compiled before.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@remote_options
def command(
    source: str,
    *,
    targets: tuple[str, ...],
    out: Path | None,
    recipes: tuple[str, ...],
    calibrators: tuple[str, ...],
    figures: Path | None,
    fresh: bool,
    as_json: bool,
    server: str,
    token: str,
) -> int:
    """Compile SOURCE: a model folder on this host, or NAME@VERSION in the cloud.

    For each target, recipes are tried from the fastest precision down: ranges by every calibrator, mixed
    precision where pure integers lose too much, all chosen on calibration data and a selection split. The
    held-out samples are read once, for what was named before; the fastest that passes every gate (structure,
    size, numeric parity, task metric within the budget, memory, speed) becomes the artifact.

    \b
    Examples:
      outrider compile models/digits --target cpu-arm64 --target rtx-ada --out build
      outrider compile digits@3 --target litert-cpu

    Exit status 1 when a target has no artifact.
    """
    if _VERSION.match(source) and not Path(source).is_dir():
        return _in_cloud(Remote.find(server, token), source, list(targets), as_json=as_json)
    if out is None:
        raise click.UsageError("--out is required for a model folder")
    if not Path(source).is_dir():
        raise FolderError(
            f"{source}: expected a model folder or NAME@VERSION, found neither; is the path right?"
        )
    request = compiling.Request(
        folder=Path(source),
        targets=targets,
        out=out,
        figures=figures,
        recipes=recipes,
        calibrators=calibrators,
        fresh=fresh,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-made stays
    with output.progress() as progress:
        task = progress.add_task("starting", total=1.0)
        report = compiling.run(
            request,
            lambda fraction, text: progress.update(task, completed=fraction, description=text),
        )
    output.emit(msgspec.to_builtins(report), as_json=as_json, human=lambda: _print(report, out))
    return 0 if all(target.chosen for target in report.targets) else 1


def _print(report: Report, out: Path) -> None:
    model = report.model
    output.out.print(f"[bold]{model.name} {model.version}[/bold]  {model.task}", highlight=False)
    for note in model.notes:
        output.out.print(note, style="dim")
    for target in report.targets:
        output.out.print()
        _print_candidates(f"{target.target}: {_MARKS[target.status]}", target.candidates)
        if target.fallback_candidates:
            _print_candidates(f"{target.target}: portable fallback", target.fallback_candidates)
        for line in _outcome(target, out):
            output.out.print(line, highlight=False)
    output.out.print(f"\nreport: {out / REPORT_PAGE}", style="dim", highlight=False)


def _print_candidates(title: str, candidates: list[Candidate]) -> None:
    shown = [c for c in candidates if c.verdict is not Verdict.PASSED or c.latency_ms is not None]
    output.table(
        title,
        ["recipe", "verdict", "selection", "held out", "loss", "SNR dB", "p50 ms", "KiB"],
        [_row(candidate) for candidate in shown],
    )
    if len(shown) < len(candidates):
        hidden = f"  {len(candidates) - len(shown)} more variants that passed are in the report"
        output.out.print(hidden, style="dim", highlight=False)
    for candidate in candidates:
        if candidate.verdict not in {Verdict.ACCEPTED, Verdict.PASSED}:
            why = f"  {candidate.recipe}: {_short(candidate.reason)}"
            output.out.print(why, style="dim", highlight=False, markup=False)


def _row(candidate: Candidate) -> list[str]:
    selection, metric = candidate.selection, candidate.metric
    judged = metric or selection
    loss = ""
    if judged is not None:
        loss = f"{judged.loss:+.4f}"
    snr = ""
    if candidate.parity is not None and candidate.parity.outputs:
        snr = f"{min(o.snr_db for o in candidate.parity.outputs.values()):.1f}"
    mark = "~" if candidate.latency_source == "estimate" else ""
    return [
        candidate.recipe,
        _MARKS[candidate.verdict],
        f"{selection.value:.4f}" if selection else "",
        f"{metric.value:.4f}" if metric else "",
        loss,
        snr,
        f"{mark}{candidate.latency_ms.p50:.3f}" if candidate.latency_ms else "",
        f"{candidate.payload_size_bytes / 1024:.0f}" if candidate.payload_size_bytes else "",
    ]


def _short(reason: str) -> str:
    line = reason.splitlines()[0] if reason else ""
    return line if len(line) <= 200 else line[:197] + "..."


def _outcome(target: TargetReport, out: Path) -> list[str]:
    lines = [] if target.chosen else [f"no artifact: {target.reason}"]
    for what, one in (("", target.chosen), (" (portable fallback)", target.fallback)):
        if one is not None:
            lines.append(f"{out / one.path}  ({one.size_bytes / 1024:.0f} KiB){what}")
            lines.append(f"  {_evidence(one)}")
    return lines


def _evidence(one: Candidate) -> str:
    found = one.evidence
    if found is None:
        return "evidence: weak"
    text = f"evidence: {found.strength}, loss {found.loss:+.4f}"
    if found.loss_lower is not None and found.loss_upper is not None:
        text += f" ({found.loss_lower:+.4f} to {found.loss_upper:+.4f}, {found.samples} samples)"
    if found.samples_needed is not None:
        text += f"; {found.samples_needed} samples would decide"
    return text


def _in_cloud(remote: Remote, source: str, targets: list[str], *, as_json: bool) -> int:
    name, _, version = source.partition("@")
    submitted = remote.post(f"/models/{name}/{version}/compile", {"targets": targets})
    identity = submitted["job"]
    job: dict[str, Any] = {}
    with output.progress() as progress:
        task = progress.add_task("waiting", total=1.0)
        while job.get("state") not in {"done", "failed", "cancelled"}:
            if job:
                time.sleep(_POLL_S)
            job = remote.get(f"/jobs/{identity}")
            progress.update(
                task,
                completed=float(job.get("progress") or 0.0),
                description=str(job.get("message") or job["state"]),
            )
    output.emit(job, as_json=as_json, human=lambda: _print_job(source, job))
    found = (job.get("report") or {}).get("targets", [])
    return 0 if job["state"] == "done" and all(target.get("chosen") for target in found) else 1


def _print_job(source: str, job: dict[str, Any]) -> None:
    rows = [
        [
            target.get("target"),
            _MARKS.get(target.get("status"), target.get("status")),
            (target.get("chosen") or {}).get("recipe", ""),
            target.get("evidence"),
            _short(str(target.get("reason", ""))),
        ]
        for target in (job.get("report") or {}).get("targets", [])
    ]
    output.table(
        f"{source}: job {job.get('id', '')} {job['state']}",
        ["target", "status", "recipe", "evidence", "why"],
        rows,
        empty=f"{source}: {job['state']}: {job.get('message', '')}",
    )
