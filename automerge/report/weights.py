"""A recipe's knobs over the depth of the model, as rows of values to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from automerge.recipe import DEFAULT, Profile, Recipe, interpolate


@dataclass(frozen=True)
class KnobRow:
    """One knob of one source over layers, first to last; `selector` is "" where it holds for all.

    `source` is "" for knobs of the method.
    """

    knob: str
    source: str
    selector: str
    values: tuple[float, ...]


def knob_rows(recipe: Recipe, n_layers: int) -> tuple[KnobRow, ...]:
    """Give a row a selector of every profile: sources' knobs by knob, then the method's own.

    A recipe with slices has none: its profiles run over each slice, not over the model.
    """
    if recipe.slices:
        return ()
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
    return tuple(rows)


def _weight_first(knob: str) -> tuple[bool, str]:
    return knob != "weight", knob


def _rows(knob: str, source: str, profile: Profile, n_layers: int) -> list[KnobRow]:
    alone = len(profile.parts) == 1
    return [
        KnobRow(
            knob,
            source,
            _selector_name(selector, alone),
            tuple(interpolate(knots, depth) for depth in _depths(n_layers)),
        )
        for selector, knots in profile.parts
    ]


def _selector_name(selector: str, alone: bool) -> str:
    if selector == DEFAULT:
        return "" if alone else "rest"
    return selector


def _depths(n_layers: int) -> Sequence[float]:
    return [layer / (n_layers - 1) if n_layers > 1 else 0.0 for layer in range(max(n_layers, 1))]
