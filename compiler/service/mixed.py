"""Mixed precision: the fewest layers that must stay out of the integers for a recipe to pass.

1. Each quantized layer's cost is measured: the error of the answers when it alone is quantized; in
   parallel, a share of the layers per core.
2. Layers are kept in the order of their cost, doubling until the screen passes, then bisecting.
3. Kept layers are given back where the screen passes without them, the cheapest first: in halves, then
   quarters, down to one by one (after Zeller and Hildebrandt's delta debugging, 2002).

Errors of layers do not simply add up, which is why every step is judged by the screen and none assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from compiler.errors import BuildError, ToolchainMissingError
from compiler.recipes.variant import Variant
from compiler.service import parallel
from compiler.service.screen import Screen, Screened
from compiler.targets.catalog import Target
from compiler.toolchains.workshop import LayerCost, backend

MOST_SHARE: Final = 0.6
"""A file with more layers than this in float is no integer file any more."""

_MOST_TRIES: Final = 40
"""Builds that giving back may cost."""

Say = Callable[[str], None]


SAFER_DB: Final = 6.0
"""A safer variant halves the error of the answers."""


def fewest(screen: Screen, pure: Screened, target: Target, say: Say) -> Screened | None:
    """The variant with the fewest kept layers that passes.

    Args:
        screen: judges variants.
        pure: the variant that keeps none, and fails.
        target: what it is for.
        say: told what is being done.

    Returns:
        None when the recipe has no refuge, its layers cannot be measured, or too many would be kept.
    """
    keeper = _Keeper.of(screen, pure, target, say)
    if keeper is None:
        return None
    passing = _bisect(keeper.first, keeper.most, lambda one: one.passed)
    return _give_back(passing, keeper.keep) if passing is not None else None


def safer(screen: Screen, pure: Screened, target: Target, say: Say) -> Screened | None:
    """The variant with the fewest kept layers whose answers lie closer by `SAFER_DB`.

    For evaluation data that cannot be divided: nothing but the held-out split can tell whether the pure
    variant passes, so a safer one is named beside it.
    """
    keeper = _Keeper.of(screen, pure, target, say)
    if keeper is None:
        return None
    enough = pure.snr_db + SAFER_DB
    return _bisect(keeper.first, keeper.most, lambda one: one.passed and one.snr_db >= enough)


class _Keeper:
    """Screens a variant with some of its layers kept.

    Attributes:
        most: how many may be kept.
    """

    def __init__(
        self, screen: Screen, variant: Variant, target: Target, say: Say, costs: list[LayerCost]
    ) -> None:
        self._screen, self._variant, self._target, self._say = screen, variant, target, say
        self._costs = costs
        self.most = int(len(costs) * MOST_SHARE)

    @classmethod
    def of(cls, screen: Screen, pure: Screened, target: Target, say: Say) -> _Keeper | None:
        """With the costs of the pure variant's layers; None where they cannot be had."""
        variant = pure.variant
        if not variant.recipe.refuge or pure.built is None or len(pure.built.layers) < 2:
            return None
        try:
            costs = measure(screen, variant, pure.built.layers, say)
        except (BuildError, ToolchainMissingError) as error:
            say(f"{variant.name}: its layers cannot be measured: {error}")
            return None
        return cls(screen, variant, target, say, costs)

    def first(self, count: int) -> Screened:
        """With the most expensive layers kept."""
        return self.keep(self._costs[:count])

    def keep(self, chosen: Sequence[LayerCost]) -> Screened:
        """With these layers kept."""
        found = replace(self._variant, kept=tuple(sorted(cost.name for cost in chosen)))
        share = f"{len(chosen)} of {len(self._costs)} layers kept in {found.recipe.refuge}"
        self._say(f"{found.name}: {share}")
        return self._screen.screen(found, self._target, kept=tuple(chosen))


def measure(screen: Screen, variant: Variant, layers: Sequence[str], say: Say) -> list[LayerCost]:
    """Cost of each layer, the most expensive first.

    Raises:
        BuildError: the driver failed.
    """
    workshop = screen.prepared.workshop
    workshop.ranges(variant.recipe)  # once, before the shares ask for them side by side
    shares = [
        share for i in range(parallel.cores()) if (share := list(layers[i :: parallel.cores()]))
    ]
    done = [0.0] * len(shares)

    def one(index: int) -> list[LayerCost]:
        def tell(fraction: float, _message: str) -> None:
            done[index] = fraction
            share = sum(done) / len(done)
            say(f"{variant.name}: sensitivity of {len(layers)} layers, {share:.0%}")

        return workshop.sensitivity(variant, shares[index], tell)

    say(f"{variant.name}: sensitivity of {len(layers)} layers ({backend(variant.recipe)})")
    found = [cost for part in parallel.each(one, range(len(shares))) for cost in part]
    return sorted(found, key=lambda cost: (-cost.noise, cost.name))


def _bisect(
    keep: Callable[[int], Screened], most: int, good: Callable[[Screened], bool]
) -> Screened | None:
    """The good variant with the smallest count, found as if being good were monotonic in it."""
    low, high = 0, 1
    found: Screened | None = None
    while high <= most:
        tried = keep(high)
        if good(tried):
            found = tried
            break
        low, high = high, high * 2 if high * 2 <= most or high == most else most
    if found is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        tried = keep(middle)
        if good(tried):
            found, high = tried, middle
        else:
            low = middle
    return found


def _give_back(passing: Screened, kept: Callable[[Sequence[LayerCost]], Screened]) -> Screened:
    """Quantize kept layers again where it passes without them: in halves, then quarters, down to one by one."""
    left = _MOST_TRIES
    size = len(passing.kept) // 2
    while size >= 1:
        start = 0
        order = sorted(passing.kept, key=lambda cost: (cost.noise, cost.name))
        while start < len(order) and left > 0:
            rest = order[:start] + order[start + size :]
            left -= 1
            tried = kept(rest) if rest else None
            if tried is not None and tried.passed:
                passing, order = tried, rest
            else:
                start += size
        size //= 2
    return passing
