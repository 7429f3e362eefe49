"""One compile: a model folder and targets in; artifacts, a report and attestations out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

import msgspec

from compiler.errors import CatalogError
from compiler.provenance import attest, keys
from compiler.service import host, output, page, prepare, report
from compiler.service.ladder import Ladder, Tried
from compiler.service.prepare import Prepared
from compiler.service.report import Latency, Report, TargetReport, Verdict
from compiler.targets import catalog
from compiler.targets.catalog import Target
from fleet.artifact import package
from fleet.artifact.package import SUFFIX

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compile.

    Attributes:
        version: overrides the folder's own.
    """

    folder: Path
    targets: Sequence[str]
    out: Path
    version: str = ""


def run(request: Request, on_progress: OnProgress = lambda _fraction, _text: None) -> Report:
    """Compile; the output folder appears whole, or not at all.

    Args:
        request: what to compile.
        on_progress: told the share that is done (0 to 1) and what is being done.

    Raises:
        CallerError: a mistake in the folder, the model, the data, the metric or the targets.
        EvaluationError: the fp32 model itself could not be scored.
    """
    targets = _targets(request.targets)
    output.check(request.out)
    steps = 1 + sum(len(target.candidates) for target in targets)
    done = 0

    def say(text: str) -> None:
        on_progress(min(done / steps, 1.0), text)

    with output.beside(request.out) as work:
        say("checking the model folder and scoring the fp32 model")
        prepared = prepare.prepare(request.folder, version=request.version, work=work / "prepare")
        done = 1
        climber = Ladder(prepared, work)
        files: dict[str, bytes] = {}
        found: list[TargetReport] = []
        for target in targets:
            begun = done

            def step(recipe: str, target: Target = target) -> None:
                nonlocal done
                say(f"{target.name}: {recipe}")
                done += 1

            tried = climber.climb(target, step)
            done = begun + len(target.candidates)
            found.append(_conclude(prepared, target, tried, files))
        document = _report(prepared, found)
        files[output.REPORT] = report.encode(document)
        files[output.PAGE] = page.render(document).encode()
        output.write(request.out, files, work=work)
    on_progress(1.0, "done")
    return document


def _targets(names: Sequence[str]) -> list[Target]:
    if not names or len(set(names)) != len(names):
        raise CatalogError(
            f"targets: expected one or more different targets of {', '.join(catalog.names())}, found {list(names)}"
        )
    return [catalog.get(name) for name in names]


def _conclude(
    prepared: Prepared, target: Target, tried: list[Tried], files: dict[str, bytes]
) -> TargetReport:
    """A target's part of the report; its artifact goes into `files`."""
    candidates = [one.candidate for one in tried]
    last = tried[-1]
    if last.package is None or last.built is None:
        skipped = all(c.verdict is Verdict.SKIPPED for c in candidates)
        tail = "none could be tried" if skipped else "none passed its gates"
        names = ", ".join(f"{c.recipe} ({c.verdict})" for c in candidates)
        return TargetReport(
            target=target.name,
            status=Verdict.REJECTED,
            reason=f"{len(candidates)} recipes, {tail}: {names}",
            evidence="weak",
            chosen=None,
            candidates=candidates,
            hardware_classes=list(target.hardware_classes),
        )
    attested = attest.attest(
        last.package,
        keys.signer(),
        parameters={
            "target": target.name,
            "recipe": last.candidate.recipe,
            "metric": prepared.folder.metric.name,
            "budget": prepared.folder.metric.budget,
        },
        dependencies={
            **prepared.digests,
            **{f"toolchain:{name}": digest for name, digest in last.built.tools.items()},
        },
        builder={"outrider": version_of("outrider")},
    )
    data = package.write(attested)
    name = f"{prepared.folder.name}-{prepared.version}-{target.name}{SUFFIX}"
    files[name] = data
    chosen = msgspec.structs.replace(
        last.candidate,
        path=name,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )
    return TargetReport(
        target=target.name,
        status=chosen.verdict,
        reason=chosen.reason,
        evidence=chosen.evidence.strength if chosen.evidence else "weak",
        chosen=chosen,
        candidates=[*candidates[:-1], chosen],
        hardware_classes=list(target.hardware_classes),
    )


def _report(prepared: Prepared, targets: list[TargetReport]) -> Report:
    reference = prepared.reference.result
    return Report(
        format=report.FORMAT,
        model=report.Model(
            name=prepared.folder.name,
            version=prepared.version,
            sha256=prepared.model.sha256,
            task=prepared.folder.task,
            licence=prepared.folder.licence,
            size_bytes=len(prepared.model.data),
            opset=prepared.model.opset,
            latency_ms=Latency(p50=reference.latency_ms_p50, p95=reference.latency_ms_p95),
            notes=prepared.model.notes,
        ),
        targets=targets,
        host=host.describe(),
        digests=prepared.digests,
        compiler={"outrider": version_of("outrider")},
    )
