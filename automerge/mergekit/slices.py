"""Slices in mergekit's files: what is said for each of them, and where mergekit does otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from automerge.recipe import Recipe, RecipeSource, Slice

T = TypeVar("T")

OUTER_NOTE = (
    "mergekit merges as many models into final norm and lm_head as the first slice has, the first "
    "of the last slice; automerge all of the last slice"
)


def hoisted(recipe: Recipe) -> Recipe:
    """The same recipe, in which what all slices say of a knob is said once."""
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
    """What all mappings hold alike."""
    first = mappings[0] if mappings else {}
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in mappings)}


def rest(knobs: Mapping[str, T], said: Mapping[str, T]) -> dict[str, T]:
    """What knobs say beyond what is said."""
    return {k: v for k, v in knobs.items() if k not in said or said[k] != v}


def slice_notes(recipe: Recipe) -> Iterator[str]:
    """Say where mergekit's result is another for slices."""
    if recipe.slices and len(recipe.slices[-1].layers) > len(recipe.slices[0].layers):
        yield OUTER_NOTE
