"""One concrete candidate: a recipe with the choices that the search makes for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compiler.recipes.catalog import Recipe


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recipe, how its ranges are found, and which layers it leaves out.

    Attributes:
        calibrator: one of the recipe's; empty where nothing is calibrated.
        kept: layers that stay in the recipe's refuge, by the toolchain's names, sorted.
    """

    recipe: Recipe
    calibrator: str = ""
    kept: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name, then the calibrator, then how many layers were kept: it decodes."""
        parts = [self.recipe.name, self.calibrator]
        if self.kept:
            parts.append(f"{self.recipe.refuge}{len(self.kept)}")
        return "_".join(filter(None, parts))

    @property
    def options(self) -> dict[str, Any]:
        """What the driver of the recipe's backend is told."""
        recipe = self.recipe.base or self.recipe
        found = dict(recipe.settings)
        if recipe.calibrated:
            found |= {
                "calibrator": self.calibrator,
                "kept": list(self.kept),
                "refuge": recipe.refuge,
            }
        return found
