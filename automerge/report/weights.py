"""A recipe's knobs over the depth of the model, as rows of values to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from automerge.recipe import DEFAULT, Profile, Recipe, Slice, interpolate


@dataclass(frozen=True)
class KnobRow:
    """One knob of one source over the layers, from first to last.

    `selector` is "" if the values apply to all tensors; `source` is "" for knobs of the method; a
    value is None in layers that the source does not take part in.
    """

    knob: str
    source: str
    selector: str
    values: tuple[float | None, ...]


def knob_rows(recipe: Recipe, n_layers: int) -> tuple[KnobRow, ...]:
    """Return a row per selector of each profile: the sources' by knob, then the method's own.

    `n_layers` is the number of layers of a recipe without slices.
    """
    sizes = [piece.n_layers for piece in recipe.slices] or [max(n_layers, 1)]
    values: dict[tuple[str, str, str], list[float | None]] = {}
    first = 0
    for part, size in zip(recipe.parts, sizes, strict=True):
        for row in _part_rows(part, size):
            key = (row.knob, row.source, row.selector)
            here = values.setdefault(key, [None] * sum(sizes))
            here[first : first + size] = row.values
        first += size
    return tuple(KnobRow(*key, tuple(found)) for key, found in values.items())


def layers_in_words(recipe: Recipe) -> str:
    """Name the layers that a recipe with slices stacks, from 0; or its experts; empty without."""
    if recipe.mixture is not None:
        return recipe.mixture.in_words
    if recipe.experts is not None:
        return recipe.experts.in_words
    return ", ".join(map(_slice_in_words, recipe.slices))


def _slice_in_words(piece: Slice) -> str:
    spans = {model: f"{start} to {stop - 1}" for model, (start, stop) in piece.layers.items()}
    scaled = "" if piece.input_scale == 1 else f" (input × {piece.input_scale:.3g})"
    if len(set(spans.values())) == 1:
        return next(iter(spans.values())) + scaled
    return " with ".join(f"{model}'s {span}" for model, span in spans.items()) + scaled


def _part_rows(recipe: Recipe, n_layers: int) -> list[KnobRow]:
    knobs = sorted({knob for s in recipe.sources for knob in s.knobs}, key=_weight_first)
    rows = [
        row
        for knob in knobs
        for source in recipe.sources
        if knob in source.knobs
        for row in _rows(knob, source.name, source.knobs[knob], n_layers)
    ]
    for knob, value in recipe.knobs.items():
        if isinstance(value, Profile):
            rows += _rows(knob, "", value, n_layers)
    return rows


def _weight_first(knob: str) -> tuple[bool, str]:
    return knob != "weight", knob


def _rows(knob: str, source: str, profile: Profile, n_layers: int) -> list[KnobRow]:
    alone = len(profile.parts) == 1
    return [
        KnobRow(
            knob,
            source,
            selector_name(selector, alone),
            tuple(interpolate(knots, depth) for depth in depths(n_layers)),
        )
        for selector, knots in profile.parts
    ]


def selector_name(selector: str, alone: bool) -> str:
    """Return how a selector is shown; "" for one that has no others beside it."""
    if selector == DEFAULT:
        return "" if alone else "rest"
    return selector


def depths(n_layers: int) -> Sequence[float]:
    """Return the depth of every layer, from 0 to 1."""
    return [layer / (n_layers - 1) if n_layers > 1 else 0.0 for layer in range(max(n_layers, 1))]
