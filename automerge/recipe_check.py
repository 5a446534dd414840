"""What is wrong with a recipe, each fault at the place where it was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from automerge.errors import Fault, Location
from automerge.methods import METHODS, check_recipe
from automerge.methods.base import check_knobs
from automerge.recipe import Recipe


class KnobLocator(Protocol):
    """Finds where a source's knob, a recipe's knob (no source) or the recipe was written."""

    def __call__(self, source: str | None, knob: str | None) -> Location | None: ...


def recipe_faults(recipe: Recipe, locate: KnobLocator) -> list[Fault]:
    """List all that keeps a recipe from being merged."""
    bare = replace(recipe, knobs={}, sources=tuple(replace(s, knobs={}) for s in recipe.sources))
    faults = [Fault(problem, locate(None, None)) for problem in check_recipe(bare, METHODS)]
    method = METHODS.get(recipe.method)
    if method is None:
        return faults
    for source in recipe.sources:
        for knob, profile in source.knobs.items():
            problems = check_knobs(method, method.source_knobs, {knob: profile}, "")
            faults += [Fault(problem, locate(source.name, knob)) for problem in problems]
    for knob, value in recipe.knobs.items():
        problems = check_knobs(method, method.recipe_knobs, {knob: value}, "")
        faults += [Fault(problem, locate(None, knob)) for problem in problems]
    return faults
