"""Slices in mergekit's files: what they share, and where mergekit merges them differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from automerge.recipe import Recipe, RecipeSource, Slice

T = TypeVar("T")

OUTER_NOTE = (
    "mergekit merges only the first models of the last slice into final norm and lm_head, as many "
    "as the first slice has; automerge merges all models of the last slice"
)


def hoisted(recipe: Recipe) -> Recipe:
    """Return the same recipe with knobs that all slices share moved out of the slices."""
    sources = []
    for source in recipe.sources:
        given = (piece.sources.get(source.name) for piece in recipe.slices)
        own = shared([knobs for knobs in given if knobs is not None])
        sources.append(RecipeSource(source.name, {**source.knobs, **own}))
    knobs = {**recipe.knobs, **shared([piece.knobs for piece in recipe.slices])}
    said = {source.name: source.knobs for source in sources}
    pieces = []
    for piece in recipe.slices:
        left = {name: rest(own, said[name]) for name, own in piece.sources.items()}
        kept = {name: own for name, own in left.items() if own}
        pieces.append(Slice(piece.layers, kept, rest(piece.knobs, knobs)))
    return replace(recipe, sources=tuple(sources), knobs=knobs, slices=tuple(pieces))


def shared(mappings: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Return the items that all mappings have in common."""
    first = mappings[0] if mappings else {}
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in mappings)}


def rest(knobs: Mapping[str, T], said: Mapping[str, T]) -> dict[str, T]:
    """Return the knobs that are not among those said already."""
    return {k: v for k, v in knobs.items() if k not in said or said[k] != v}


def slice_notes(recipe: Recipe) -> Iterator[str]:
    """Yield how mergekit's result differs for slices."""
    scales = [piece.input_scale for piece in recipe.slices]
    if any(scale != 1 for scale in scales):
        listed = ", ".join(f"{scale:g}" for scale in scales)
        yield f"mergekit has no `input_scale` of slices (here {listed}): it leaves them out"
    if recipe.slices and len(recipe.slices[-1].layers) > len(recipe.slices[0].layers):
        yield OUTER_NOTE
