"""Mixed precision: the fewest layers, whatever layers are needed, with few builds."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from compiler.recipes import catalog
from compiler.recipes.variant import Variant
from compiler.service import mixed
from compiler.service.report import Verdict
from compiler.service.screen import Screened
from compiler.targets import catalog as targets
from compiler.toolchains.steps import Built
from compiler.toolchains.workshop import LayerCost

RECIPE = catalog.get("litert_static_wi8_ai8")
TARGET = targets.get("litert-cpu")


class Workshop:
    """Answers with costs that were decided before."""

    def __init__(self, costs: dict[str, float]) -> None:
        self._costs = costs

    def ranges(self, _recipe: object) -> None:
        pass

    def sensitivity(self, _variant: object, layers: Sequence[str], tell) -> list[LayerCost]:
        tell(1.0, "done")
        return [LayerCost(name=n, op="CONV_2D", snr_db=0.0, noise=self._costs[n]) for n in layers]


class Prepared:
    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop


class Screen:
    """Passes what keeps at least the layers that are needed."""

    def __init__(self, costs: dict[str, float], needed: set[str]) -> None:
        self.prepared = Prepared(Workshop(costs))
        self.needed = needed
        self.calls = 0

    def screen(
        self, variant: Variant, _target: object, kept: tuple[LayerCost, ...] = ()
    ) -> Screened:
        self.calls += 1
        right = self.needed <= set(variant.kept)
        return Screened(
            variant=variant,
            kept=kept,
            problem="" if right else "loses too much",
            verdict=Verdict.ACCEPTED if right else Verdict.REJECTED,
        )


def pure(layers: Sequence[str]) -> Screened:
    built = Built(runtime="litert", member="model.tflite", payload=b"x", layers=list(layers))
    return Screened(
        variant=Variant(recipe=RECIPE, calibrator="minmax"), built=built, problem="loses"
    )


@given(st.data())
def test_it_keeps_exactly_what_is_needed_when_the_costs_say_so(data: st.DataObject) -> None:
    names = [f"layer{i}" for i in range(data.draw(st.integers(4, 60)))]
    count = data.draw(st.integers(1, max(1, int(len(names) * mixed.MOST_SHARE))))
    needed = set(data.draw(st.permutations(names))[:count])
    costs = {name: 10.0 if name in needed else 1.0 for name in names}
    screen = Screen(costs, needed)
    found = mixed.fewest(screen, pure(names), TARGET, lambda _: None)
    assert found is not None
    assert found.passed
    assert set(found.variant.kept) == needed
    assert {cost.name for cost in found.kept} == needed
    assert screen.calls <= 2 * 6 + 1 + 40


@given(st.data())
def test_it_passes_also_where_the_costs_mislead(data: st.DataObject) -> None:
    names = [f"layer{i}" for i in range(data.draw(st.integers(4, 40)))]
    order = data.draw(st.permutations(names))
    costs = {name: float(len(names) - i) for i, name in enumerate(order)}
    most = int(len(names) * mixed.MOST_SHARE)
    needed = set(data.draw(st.lists(st.sampled_from(order[:most]), min_size=1, max_size=4)))
    found = mixed.fewest(Screen(costs, needed), pure(names), TARGET, lambda _: None)
    assert found is not None
    assert needed <= set(found.variant.kept)
    assert set(found.variant.kept) == needed


def test_it_gives_up_where_most_layers_would_stay_out() -> None:
    names = [f"layer{i}" for i in range(10)]
    costs = dict.fromkeys(names, 1.0)
    assert mixed.fewest(Screen(costs, set(names)), pure(names), TARGET, lambda _: None) is None


def test_a_recipe_without_a_refuge_has_no_mixed_variant() -> None:
    bare = Variant(recipe=catalog.get("litert_dynamic_wi8"))
    found = Screened(variant=bare, built=pure(["a", "b", "c"]).built, problem="loses")
    assert mixed.fewest(Screen({}, set()), found, TARGET, lambda _: None) is None
