"""What is wrong with a recipe, each fault at the place where it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from automerge.errors import Fault, Location
from automerge.methods import METHODS, check_recipe
from automerge.methods.base import check_knobs
from automerge.recipe import Profile, Recipe, Value, slice_faults


class KnobLocator(Protocol):
    """Finds where a source's knob, a recipe's knob (no source) or the recipe was written.

    `piece` is the number of the slice whose own it is, from 0; None for the recipe's.
    """

    def __call__(
        self, source: str | None, knob: str | None, piece: int | None = None
    ) -> Location | None: ...


def recipe_faults(recipe: Recipe, locate: KnobLocator) -> list[Fault]:
    """List all that keeps a recipe from being merged."""
    faults = [
        Fault(problem, locate(model, None, piece)) for piece, model, problem in slice_faults(recipe)
    ]
    if not faults:
        bare = replace(
            recipe,
            knobs={},
            sources=tuple(replace(s, knobs={}) for s in recipe.sources),
            slices=tuple(replace(piece, sources={}, knobs={}) for piece in recipe.slices),
        )
        faults += [Fault(problem, locate(None, None)) for problem in check_recipe(bare, METHODS)]
    method = METHODS.get(recipe.method)
    if method is None:
        return faults

    def check(
        knobs: Mapping[str, Profile | Value], source: str | None, piece: int | None
    ) -> Iterator[Fault]:
        declared = method.recipe_knobs if source is None else method.source_knobs
        for knob, value in knobs.items():
            for problem in check_knobs(method, declared, {knob: value}, ""):
                yield Fault(problem, locate(source, knob, piece))

    for source in recipe.sources:
        faults += check(source.knobs, source.name, None)
    faults += check(recipe.knobs, None, None)
    for i, piece in enumerate(recipe.slices):
        for name, knobs in piece.sources.items():
            faults += check(knobs, name, i)
        faults += check(piece.knobs, None, i)
    return faults
