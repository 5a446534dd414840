"""What is wrong with a recipe, each fault at the place where it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from automerge.errors import Fault, Location
from automerge.methods import METHODS, Knob, check_recipe
from automerge.methods.base import check_knobs
from automerge.recipe import PlainPath, Profile, Recipe, Value, slice_faults

Locate = Callable[[PlainPath], Location | None]
"""Finds where a part of a recipe was written, by its path in `Recipe.plain`."""


def recipe_faults(recipe: Recipe, locate: Locate) -> list[Fault]:
    """List all that keeps a recipe from being merged."""
    faults = [Fault(problem, locate(at)) for at, problem in slice_faults(recipe)]
    if not faults:
        bare = replace(
            recipe,
            knobs={},
            sources=tuple(replace(s, knobs={}) for s in recipe.sources),
            slices=tuple(replace(piece, sources={}, knobs={}) for piece in recipe.slices),
        )
        faults += [Fault(problem, locate(("method",))) for problem in check_recipe(bare, METHODS)]
    if recipe.method not in METHODS:
        return faults
    method = METHODS[recipe.method]

    def check(
        at: PlainPath, declared: Sequence[Knob], knobs: Mapping[str, Profile | Value]
    ) -> Iterator[Fault]:
        for knob, value in knobs.items():
            for problem in check_knobs(method, declared, {knob: value}, ""):
                yield Fault(problem, locate((*at, knob)))

    for source in recipe.sources:
        faults += check(("sources", source.name), method.source_knobs, source.knobs)
    faults += check(("parameters",), method.recipe_knobs, recipe.knobs)
    for i, piece in enumerate(recipe.slices):
        for name, knobs in piece.sources.items():
            faults += check(("slices", i, "sources", name), method.source_knobs, knobs)
        faults += check(("slices", i, "parameters"), method.recipe_knobs, piece.knobs)
    return faults
