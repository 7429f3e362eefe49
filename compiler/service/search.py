"""The search for a target: from its ladder to the candidates that are named for the held-out split.

Rules:
- Calibrators are compared by measurement: among those whose loss on the selection split is within one
  standard error of the smallest, the one whose answers lie closest to the fp32 model's.
- All recipes of a tier are candidates; a lower tier is tried only when none of the upper ones passes.
  Where no pure recipe of a tier passes, mixed precision is tried on the one that comes closest.
- Of those that pass, the fastest on the target's own measurements is preferred, and of those as fast the
  one with the closest answers; where there are no such measurements, the order of the ladder decides. An integer file that is not faster than the float one is not chosen.
- Where evaluation data cannot be divided, a safer variant with some layers kept is named beside the chosen.
- What is named is fixed before any held-out sample is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from compiler.evaluate import gates, race
from compiler.evaluate.gates import Speed
from compiler.evaluate.race import Latency
from compiler.recipes.catalog import Recipe
from compiler.recipes.variant import Variant
from compiler.service import mixed, parallel
from compiler.service.figures import Figures
from compiler.service.screen import Screen, Screened
from compiler.targets.catalog import Target, Tiers

Say = Callable[[str], None]
MOST_NAMED: Final = 3
AS_FAST: Final = 1.05
"""Latencies closer than this are the same: then the answers decide."""


@dataclass(kw_only=True)
class Found:
    """What a search has found so far.

    Attributes:
        tried: every variant that was screened, in order.
        named: in the order of preference.
        latencies: by the variant's name, of what this host or devices could run.
        source: of the latencies that count; empty when they are estimates.
        baseline: of the fastest float file.
    """

    tried: list[Screened] = field(default_factory=list)
    named: list[Screened] = field(default_factory=list)
    latencies: dict[str, Latency] = field(default_factory=dict)
    source: str = ""
    baseline: Latency | None = None

    def speed(self, one: Screened) -> Speed:
        """Latencies of a candidate and of the float baseline."""
        candidate = self.latencies.get(one.variant.name)
        return Speed(candidate=candidate, baseline=self.baseline, source=self.source)


class Search:
    """Searches one target's ladder."""

    def __init__(self, screen: Screen, target: Target, figures: Figures, say: Say) -> None:
        """With figures that devices have reported."""
        self._screen, self._target, self._figures, self._say = screen, target, figures, say
        self._found = Found()

    def run(self, ladder: Tiers) -> Found:
        """Screen the ladder's tiers until one has something to name."""
        floats = [r for tier in ladder for r in tier if r.mode == "fp32"]
        integers = [[r for r in tier if r.mode != "fp32"] for tier in ladder]
        for tier in filter(None, integers):
            passing = self._tier(tier)
            if passing and (chosen := self._fastest(passing, floats)):
                self._name(chosen, passing, floats)
                return self._found
        passing = self._passing(floats)
        if passing:
            self._race(passing, floats)
            self._found.named = sorted(passing, key=self._pace)[:1]
        return self._found

    # --- screening -------------------------------------------------------------------------------

    def _tier(self, tier: Sequence[Recipe]) -> list[Screened]:
        """The passing candidates of a tier: the best variant of each recipe, else a mixed one."""
        best = [self._best(recipe) for recipe in tier]
        passing = [one for one in best if one.passed]
        if passing:
            return passing
        hopeful = [one for one in best if one.built is not None and one.variant.recipe.refuge]
        for one in sorted(hopeful, key=lambda o: (o.loss, -o.snr_db))[:1]:
            found = mixed.fewest(self._screen, one, self._target, self._say)
            if found is not None:
                self._found.tried.append(found)
                return [found]
        return []

    def _best(self, recipe: Recipe) -> Screened:
        variants = [Variant(recipe=recipe, calibrator=name) for name in recipe.calibrators or ("",)]
        self._say(f"{recipe.name}: {', '.join(recipe.calibrators) or 'building'}")
        first = self._screen.screen(variants[0], self._target)  # makes what the others share
        rest = variants[1:] if first.built is not None else []
        found = [first, *parallel.each(lambda v: self._screen.screen(v, self._target), rest)]
        self._found.tried += found
        return best_of(found)

    def _plain(self, recipes: Sequence[Recipe]) -> list[Screened]:
        """Recipes without choices, each screened once."""
        known = {one.variant.name: one for one in self._found.tried}
        for recipe in recipes:
            if recipe.name not in known:
                self._say(recipe.name)
                known[recipe.name] = self._screen.screen(Variant(recipe=recipe), self._target)
                self._found.tried.append(known[recipe.name])
        return [known[recipe.name] for recipe in recipes]

    def _passing(self, recipes: Sequence[Recipe]) -> list[Screened]:
        return [one for one in self._plain(recipes) if one.passed]

    # --- speed and names -------------------------------------------------------------------------

    def _fastest(self, passing: list[Screened], floats: Sequence[Recipe]) -> Screened | None:
        """The fastest of a tier's candidates that is no slower than float."""
        self._race([*passing, *self._passing(floats)], floats)
        quick = [one for one in passing if self._is_worth_it(one)]
        if not quick:
            return None
        limit = min(self._pace(one) for one in quick) * AS_FAST
        # Without the target's own figures nothing tells them apart: the ladder's order does.
        alike = [one for one in quick if self._pace(one) <= limit]
        return max(alike, key=lambda one: one.snr_db) if self._found.source else quick[0]

    def _is_worth_it(self, one: Screened) -> bool:
        return gates.speed(one.variant.recipe, self._found.speed(one)).passed is not False

    def _pace(self, one: Screened) -> float:
        """What candidates are ordered by: measured latency where it is the target's own, else the ladder."""
        latency = self._found.latencies.get(one.variant.name)
        return latency.p50 if latency is not None and self._found.source else 0.0

    def _race(self, entrants: Sequence[Screened], floats: Sequence[Recipe]) -> None:
        """Measure latencies here, turn by turn; figures of devices replace them."""
        found, names = self._found, {recipe.name for recipe in floats}
        packages = {
            one.variant.name: one.content for one in entrants if one.on_host and one.content
        }
        if packages:
            self._say(f"latency of {len(packages)} candidates, turn by turn")
            found.latencies |= race.run(packages, work=self._screen.place("race"))
            if self._figures.are_own(self._target):
                found.source = "this host"
        reported = self._figures.of(self._target, [one.variant.name for one in entrants])
        if reported.latencies.keys() & names:
            found.latencies |= reported.latencies
            found.source = reported.source
        baselines = [found.latencies[name] for name in names if name in found.latencies]
        found.baseline = min(baselines, key=lambda latency: latency.p50, default=None)

    def _name(self, chosen: Screened, passing: list[Screened], floats: Sequence[Recipe]) -> None:
        """Fix what may read the held-out split: the chosen, the safest beside it, and a float file."""
        found = self._found
        others = [one for one in passing if one is not chosen]
        if not self._screen.prepared.split.selection and chosen.variant.recipe.refuge:
            safer = mixed.safer(self._screen, chosen, self._target, self._say)
            if safer is not None:
                found.tried.append(safer)
                others.append(safer)
                self._race([chosen, safer, *self._passing(floats)], floats)
        others = [one for one in others if self._is_worth_it(one)]
        safest = max(others, key=lambda one: one.snr_db, default=None)
        named = [chosen]
        if safest is not None and safest.snr_db > chosen.snr_db:
            named.append(safest)
        plain = self._passing(floats)
        if plain:
            named.append(min(plain, key=self._pace))
        found.named = named[:MOST_NAMED]


def best_of(found: Sequence[Screened]) -> Screened:
    """The best of one recipe's variants; see the rules above."""
    built = [one for one in found if one.built is not None]
    if not built:
        return found[0]
    passing = [one for one in built if one.passed] or built
    least = min(passing, key=lambda one: (_loss(one), -one.snr_db))
    near = [one for one in passing if _loss(one) <= _loss(least) + least.loss_error + 1e-12]
    return max(near, key=lambda one: (one.snr_db, -one.loss))


def _loss(one: Screened) -> float:
    """A variant that beats the fp32 model was lucky, and is worth no more than one that equals it."""
    return max(one.loss, 0.0)
