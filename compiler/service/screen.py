"""Screening: variants are built and judged on calibration data and the selection split, never on held-out data.

Rules:
- A candidate costs nothing but itself: whatever its tools or its evaluation do is its verdict.
- Evaluations are kept, because targets share recipes.
- Quality is read under the target's real arithmetic; see `gates`.
"""

from __future__ import annotations

import hashlib
import itertools
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compiler.errors import BuildError, EvaluationError, ToolchainMissingError
from compiler.evaluate import child, evidence, gates, jobs, split
from compiler.evaluate.child import Asked, Evaluation
from compiler.evaluate.gates import Gate
from compiler.recipes.variant import Variant
from compiler.service import host, packing
from compiler.service.packing import Subject
from compiler.service.prepare import Prepared
from compiler.service.report import Verdict
from compiler.targets.catalog import Target
from compiler.toolchains import steps
from compiler.toolchains.steps import Built
from compiler.toolchains.workshop import LayerCost
from fleet.artifact.package import Package


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What is known of a variant before any held-out sample is read.

    Attributes:
        problem: why it could not be built or judged; empty when it could.
        verdict: failed or skipped where there is a problem; rejected or, so far, accepted.
        built, content, evaluation: None where there is a problem.
        judged: which arithmetic was read.
        gates: structure, size, parity, selection.
        kept: costs of the layers that mixed precision left out.
    """

    variant: Variant
    problem: str = ""
    verdict: Verdict = Verdict.ACCEPTED
    built: Built | None = None
    content: Package | None = None
    evaluation: Evaluation | None = None
    judged: str = jobs.HOST
    gates: tuple[Gate, ...] = ()
    kept: tuple[LayerCost, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it may be named for the held-out split."""
        return not self.problem and all(gate.passed for gate in self.gates)

    @property
    def on_host(self) -> bool:
        """Whether this host runs the very file."""
        return self.built is not None and self.built.stand_in is None

    @property
    def snr_db(self) -> float:
        """Of the worst output on calibration samples."""
        parity = self.evaluation.result.parity if self.evaluation else None
        return min((o.snr_db for o in parity.outputs.values()), default=0.0) if parity else -1e9

    @property
    def loss(self) -> float:
        """On the selection split; 0 where there is none."""
        proof = self.evaluation.result.evidence if self.evaluation else None
        return proof.loss if proof else 0.0

    @property
    def loss_error(self) -> float:
        """Standard error of `loss`."""
        proof = self.evaluation.result.evidence if self.evaluation else None
        if proof is None or proof.loss_upper is None:
            return 0.0
        return (proof.loss_upper - proof.loss) / evidence.reach(proof.confidence)


class Screen:
    """Builds and judges variants of one prepared model."""

    def __init__(self, prepared: Prepared, work: Path) -> None:
        """Children exchange files below `work`."""
        self.prepared = prepared
        self.subject = Subject(prepared.folder, prepared.version, prepared.source)
        self.work = work
        self._kept: dict[tuple[str, tuple[str, ...], str, str], Screened] = {}
        self._number = itertools.count()
        arrays = prepared.reference.arrays
        answers = [a for name, a in arrays.items() if name.startswith("parity:")]
        self._largest = max((float(np.abs(a).max(initial=0)) for a in answers), default=0.0)

    def screen(
        self, variant: Variant, target: Target, kept: tuple[LayerCost, ...] = ()
    ) -> Screened:
        """Build a variant for a target and judge it."""
        judged = arithmetic(variant, target)
        finished = target.name if variant.recipe.backend == "finish" else ""
        key = (variant.name, variant.kept, judged, finished)
        if key not in self._kept:
            self._kept[key] = self._screen(variant, target, judged)
        found = self._kept[key]
        if found.built is None or found.evaluation is None:
            return found
        # Structure and size are the target's, also where the file and its figures are shared.
        recipe, result = variant.recipe, found.evaluation.result
        judged_gates = (
            gates.structure(found.built, recipe, target),
            gates.size(found.built, target, len(self.prepared.model.data)),
            gates.parity(result, recipe, self._largest),
            gates.selection(self.prepared.folder.metric, result),
        )
        passed = all(gate.passed for gate in judged_gates)
        verdict = Verdict.ACCEPTED if passed else Verdict.REJECTED
        return replace(found, gates=judged_gates, verdict=verdict, kept=kept)

    def place(self, name: str) -> Path:
        """A fresh folder for a child's files."""
        return self.work / f"{next(self._number)}-{name}"

    def _screen(self, variant: Variant, target: Target, judged: str) -> Screened:
        empty = Screened(variant=variant, judged=judged)
        try:
            built = steps.build(variant, self.prepared.workshop, target)
            content = self._provisional(built.stand_in or built)
            evaluation = self._evaluate(variant, content, judged)
        except ToolchainMissingError as error:
            return replace(empty, problem=str(error), verdict=Verdict.SKIPPED)
        except (BuildError, EvaluationError) as error:
            return replace(empty, problem=str(error), verdict=Verdict.FAILED)
        return replace(empty, built=built, content=content, evaluation=evaluation)

    def _provisional(self, judged: Built) -> Package:
        return packing.provisional(
            self.subject,
            judged,
            golden_inputs=self.prepared.golden_inputs,
            golden_outputs=self.prepared.golden_outputs,
        )

    def _evaluate(self, variant: Variant, content: Package, judged: str) -> Evaluation:
        prepared = self.prepared
        asked = Asked(
            model_folder=prepared.folder.path,
            calibration=prepared.recorded,
            reference=prepared.reference.folder,
            part=split.SELECTION if prepared.split.selection else "",
            split=prepared.split,
            arithmetic=judged,
            # Reference kernels are slow, and mixed precision takes many steps: what is named of it is looked at both ways.
            both=variant.recipe.computes_in_integers and not variant.kept,
        )
        digest = hashlib.sha256("\n".join(variant.kept).encode()).hexdigest()[:8]
        place = self.place(f"{variant.name}-{digest}")
        evaluation = child.evaluate(content, asked, work=place)
        if evaluation.result.error:
            raise EvaluationError(evaluation.result.error)
        return evaluation


def arithmetic(variant: Variant, target: Target) -> str:
    """What is judged: this host's kernels where they are the target's, else the artifact's own quality.

    Only integer files of recipes that saturate differ enough to matter, and only where this host saturates.
    """
    recipe = variant.recipe.base or variant.recipe
    foreign = variant.recipe.backend == "finish" or not target.figures_are_own(platform.machine())
    return jobs.EXACT if recipe.saturates and foreign and host.saturates() else jobs.HOST
