"""One compile: a model folder and targets in; artifacts, a report and attestations out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

import msgspec

from compiler.errors import CatalogError
from compiler.evaluate import metrics
from compiler.graph import folder
from compiler.provenance import attest, keys
from compiler.recipes import catalog as recipes
from compiler.recipes.catalog import Recipe
from compiler.service import decide, figures, host, kept, output, page, prepare, report, statement
from compiler.service.decide import Decision
from compiler.service.figures import Figures
from compiler.service.prepare import Prepared
from compiler.service.report import Candidate, Metric, Report, TargetReport, Verdict
from compiler.service.screen import Screen
from compiler.service.search import Found, Search
from compiler.targets import catalog
from compiler.targets.catalog import Target, Tiers
from compiler.toolchains import catalog as toolchains
from compiler.toolchains import driver, forks, own
from compiler.toolchains.workshop import backend
from fleet.artifact import package
from fleet.artifact.package import SUFFIX

OnProgress = Callable[[float, str], None]


FALLBACK: Final = "fallback"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compile.

    Attributes:
        version: overrides the folder's own.
        figures: a file of what devices reported, see `figures`; None when nothing is known.
        recipes: try these alone, all of them as one tier, instead of the targets' own ladders.
        calibrators: compare these alone, of those that a recipe has.
        fresh: compile also what was compiled before.
    """

    folder: Path
    targets: Sequence[str]
    out: Path
    version: str = ""
    figures: Path | None = None
    recipes: Sequence[str] = ()
    calibrators: Sequence[str] = ()
    fresh: bool = False


def run(request: Request, on_progress: OnProgress = lambda _fraction, _text: None) -> Report:
    """Compile; the output folder appears whole, or not at all.

    Args:
        request: what to compile.
        on_progress: told the share that is done (0 to 1) and what is being done.

    Raises:
        CallerError: a mistake in the folder, the model, the data, the metric or the targets.
        EvaluationError: the fp32 model itself could not be scored.
    """
    targets = [_narrowed(target, request) for target in _targets(request.targets)]
    known = figures.load(request.figures) if request.figures else Figures()
    output.check(request.out)
    folder.load(request.folder)  # its mistakes are told before anything else is done
    key = kept.key(request.folder, targets, version=request.version, figures=request.figures)
    if not request.fresh and (before := kept.get(key)) is not None:
        with output.beside(request.out) as work:
            output.write(request.out, before[1], work=work)
        on_progress(1.0, "done: the same was compiled before")
        return before[0]
    with output.beside(request.out) as work, forks.kept():
        on_progress(0.0, "checking the model folder and scoring the fp32 model")
        prepared = _prepared(request, targets, work / "prepare")
        pace = _Pace(targets, on_progress)
        job = _Job(prepared, Screen(prepared, work), known)
        found = [job.target(target, pace) for target in targets]
        document = _report(prepared, found)
        files = {
            **job.files,
            output.REPORT: report.encode(document),
            output.PAGE: page.render(document).encode(),
        }
        output.write(request.out, files, work=work)
    kept.put(key, document, files)
    on_progress(1.0, "done")
    return document


def _prepared(request: Request, targets: Sequence[Target], work: Path) -> Prepared:
    """The folder with its reference; what the first recipes need is under way meanwhile."""
    own.expect()
    tiers = [tier for target in targets for tier in (*target.ladder, *target.fallback)]
    backends = sorted({backend(recipe) for tier in tiers for recipe in tier})
    for name in backends:
        driver.expect(toolchains.get(name))
    return prepare.prepare(
        request.folder,
        version=request.version,
        work=work,
        backends=backends,
        calibrators=request.calibrators or recipes.CALIBRATORS,
    )


class _Pace:
    """Progress: the reference takes one part, each tier of each ladder another; it never goes back."""

    def __init__(self, targets: Sequence[Target], tell: OnProgress) -> None:
        ladders = [ladder for target in targets for ladder in (target.ladder, target.fallback)]
        self._parts = 1 + sum(1 + sum(map(len, ladder)) for ladder in ladders if ladder)
        self._done, self._tell = 1.0, tell
        self._until = 1.0

    def begin(self, ladder: Tiers) -> None:
        self._done = self._until
        self._until += 1 + sum(map(len, ladder))

    def say(self, text: str) -> None:
        # What is left of a ladder is not known before it passes: each step takes a share of the rest.
        self._done += (self._until - self._done) * 0.15
        self._tell(min(self._done / self._parts, 1.0), text)


class _Job:
    """One compile under way.

    Attributes:
        files: artifacts by name, as they are made.
    """

    def __init__(self, prepared: Prepared, screen: Screen, known: Figures) -> None:
        self._prepared, self._screen, self._figures = prepared, screen, known
        self.files: dict[str, bytes] = {}

    def target(self, target: Target, pace: _Pace) -> TargetReport:
        """Search, decide, pack; the portable fallback beside an engine, too."""
        found, decision = self._ladder(target, target.ladder, pace)
        chosen = self._pack(target, decision, "")
        fallback, candidates = None, []
        if target.fallback:
            _, other = self._ladder(target, target.fallback, pace)
            fallback, candidates = self._pack(target, other, FALLBACK), other.candidates
            candidates = _replaced(candidates, fallback)
        status, reason = _outcome(chosen, fallback, decision.candidates)
        evidence = chosen.evidence if chosen else None
        return TargetReport(
            target=target.name,
            status=status,
            reason=reason,
            evidence=evidence.strength if evidence else "weak",
            chosen=chosen,
            candidates=_replaced(decision.candidates, chosen),
            fallback=fallback,
            fallback_candidates=candidates,
            named=[one.variant.name for one in found.named],
            baseline_ms=found.baseline,
            hardware_classes=list(target.hardware_classes),
        )

    def _ladder(self, target: Target, ladder: Tiers, pace: _Pace) -> tuple[Found, Decision]:
        pace.begin(ladder)
        search = Search(
            self._screen, target, self._figures, lambda text: pace.say(f"{target.name}: {text}")
        )
        found = search.run(ladder)
        pace.say(f"{target.name}: reading the held-out split")
        return found, decide.decide(self._screen, target, found)

    def _pack(self, target: Target, decision: Decision, suffix: str) -> Candidate | None:
        """Attest what was chosen; its file joins the output."""
        if decision.chosen is None or decision.package is None or decision.variant is None:
            return None
        prepared = self._prepared
        attested = attest.attest(
            decision.package,
            keys.signer(),
            statement.provenance(prepared, target, decision.chosen, decision.variant.recipe),
        )
        data = package.write(attested)
        parts = [prepared.folder.name, prepared.version, target.name, suffix]
        name = "-".join(filter(None, parts)) + SUFFIX
        self.files[name] = data
        return msgspec.structs.replace(
            decision.chosen,
            path=name,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
        )


def _targets(names: Sequence[str]) -> list[Target]:
    if not names or len(set(names)) != len(names):
        raise CatalogError(
            f"targets: expected one or more different targets of {', '.join(catalog.names())}, found {list(names)}"
        )
    return [catalog.get(name) for name in names]


def _narrowed(target: Target, request: Request) -> Target:
    """The target with these recipes and calibrators alone, where some are named."""
    if request.recipes:
        chosen = tuple(recipes.get(name) for name in dict.fromkeys(request.recipes))
        target = replace(target, ladder=(chosen,), fallback=())
    if not request.calibrators:
        return target
    unknown = sorted(set(request.calibrators) - set(recipes.CALIBRATORS))
    if unknown:
        known = ", ".join(recipes.CALIBRATORS)
        raise CatalogError(f"calibrators: expected some of {known}, found {unknown}")
    return replace(
        target,
        ladder=_calibrated(target.ladder, request.calibrators),
        fallback=_calibrated(target.fallback, request.calibrators),
    )


def _calibrated(tiers: Tiers, names: Sequence[str]) -> Tiers:
    def narrowed(recipe: Recipe) -> Recipe:
        return replace(recipe, calibrators=tuple(c for c in recipe.calibrators if c in names))

    return tuple(tuple(narrowed(recipe) for recipe in tier) for tier in tiers)


def _replaced(candidates: list[Candidate], chosen: Candidate | None) -> list[Candidate]:
    """The candidates with the chosen one as it was packed."""
    if chosen is None:
        return candidates
    return [chosen if one.recipe == chosen.recipe else one for one in candidates]


def _outcome(
    chosen: Candidate | None, fallback: Candidate | None, candidates: list[Candidate]
) -> tuple[Verdict, str]:
    if chosen is not None:
        return chosen.verdict, chosen.reason
    skipped = all(c.verdict is Verdict.SKIPPED for c in candidates)
    tail = "none could be tried" if skipped else "none passed its gates"
    names = ", ".join(f"{c.recipe} ({c.verdict})" for c in candidates)
    portable = f"; {fallback.recipe} is there as a portable fallback" if fallback else ""
    return Verdict.REJECTED, f"{len(candidates)} candidates, {tail}: {names}{portable}"


def _report(prepared: Prepared, targets: list[TargetReport]) -> Report:
    result, rule = prepared.reference.result, prepared.folder.metric
    value = result.metric or 0.0
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
            metric=Metric(
                name=rule.name,
                value=value,
                reference=value,
                budget=rule.budget,
                higher_is_better=metrics.higher_is_better(rule),
                samples=result.samples,
            ),
            split=prepared.split,
            calibration_samples=prepared.source.calibration.count,
            latency_ms=prepared.latency_ms,
            notes=prepared.model.notes,
        ),
        targets=targets,
        host=host.describe(),
        digests=prepared.digests,
        compiler={"outrider": version_of("outrider")},
    )
