"""What a user may say about the search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from automerge.recipe import DEFAULT


@dataclass(frozen=True)
class Knots:
    """Values at equally spaced depths, interpolated linearly over the layers between."""

    count: int


@dataclass(frozen=True)
class Groups:
    """One value for each of several runs of neighbouring layers, of (nearly) equal length."""

    count: int


@dataclass(frozen=True)
class PerLayer:
    """One value a layer."""


Depth: TypeAlias = Knots | Groups | PerLayer


@dataclass(frozen=True)
class SpaceSettings:
    """The methods to search, and what varies over what.

    `components` are groups of selectors (as in a recipe's profiles) that share values.
    `varying` knobs differ between component groups and over depth; all others are one number a
    source, or one for all sources where `shared` names them.
    `bounds` replace a knob's declared search bounds, and make a knob searched that is not by
    default; `switches` does that for boolean knobs; `fixed` knobs have one value and no search.
    `leave_out` lets the search drop sources, down to the method's least number.
    `drop` and `repeat` are how many neighbouring layers may be left out, and run twice.
    `evidence` has the digest of each kind that a method needs, by source.
    `seed` decides the random masks of seeded methods, the same for every recipe.
    """

    methods: tuple[str, ...]
    components: tuple[tuple[str, ...], ...] = ((DEFAULT,),)
    depth: Depth = Knots(3)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fixed: Mapping[str, float | bool] = field(default_factory=dict)
    switches: tuple[str, ...] = ()
    varying: tuple[str, ...] = ("weight", "t")
    shared: tuple[str, ...] = ()
    leave_out: bool = False
    drop: int = 0
    repeat: int = 0
    seed: int = 0
    dtype: str | None = None
    evidence: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
