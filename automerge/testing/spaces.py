"""A space with every kind of parameter, and smooth losses over it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from automerge.arrays import Floats
from automerge.methods import METHODS
from automerge.recipe import DEFAULT
from automerge.space import Branch, Knots, Space, SpaceSettings, build_space
from automerge.trial import Params

PLAIN = SpaceSettings(
    methods=(),
    components=((DEFAULT,),),
    depth=Knots(3),
    bounds={},
    fixed={},
    switches=(),
    deviation=0.1,
    varying=("weight", "t"),
    shared=(),
    leave_out=False,
    drop=0,
    repeat=0,
    seed=0,
)
"""One group of components, three knots, nothing fixed and no source left out."""


def plain_settings(*methods: str, **changes: Any) -> SpaceSettings:
    """Return `PLAIN` for some methods, with changes of its fields."""
    return replace(PLAIN, methods=methods, **changes)


def space(
    *methods: str,
    sources: Sequence[str] = ("a", "b", "c"),
    leave_out: bool = True,
    switches: bool = True,
) -> Space:
    methods = methods or ("linear", "slerp", "ties")
    switched = switches and any(
        knob.name == "normalize" for name in methods for knob in METHODS[name].knobs
    )
    settings = plain_settings(
        *methods,
        depth=Knots(2),
        leave_out=leave_out,
        switches=("normalize",) if switched else (),
    )
    return build_space(settings, "base", sources, 6, METHODS)


def branch_cost(branch: Branch) -> float:
    """Return a number in [0, 0.3) that makes some branches better than others."""
    return _cost(zlib.crc32(repr(sorted(branch.choices.items())).encode()))


@lru_cache
def _cost(label: int) -> float:
    return float(np.random.default_rng(label).uniform(0, 0.3))


def slopes(space: Space, params: Params, n_objectives: int) -> list[dict[str, float]]:
    """Return the derivatives of `losses` by role, per fraction of a role's range, by differences.

    Roles at a bound are left out, and those that have no slope.
    """
    h, position = 0.002, space.position(params)
    found: list[dict[str, float]] = [{} for _ in range(n_objectives)]
    for role in space.branch(params).roles:
        column = space.columns[role]
        if space.smooth[column] and h <= position[column] <= 1 - h:
            ends = []
            for by in (-h, h):
                moved = position.copy()
                moved[column] += by
                ends.append(losses(space, space.at(moved), n_objectives))
            for j, (below, above) in enumerate(zip(*ends, strict=True)):
                found[j][role] = (above - below) / (2 * h)
    return found


def losses(space: Space, params: Params, n_objectives: int) -> list[float]:
    """Return squared distances to one optimum per objective, plus what the branch costs."""
    branch = space.branch(params)
    cost = branch_cost(branch)
    vector = space.to_vector(params)
    used = [space.columns[role] for role in branch.roles]
    optima = _optima(n_objectives, len(space.roles))
    return [float(cost + np.mean((vector[used] - optimum[used]) ** 2)) for optimum in optima]


@lru_cache
def _optima(n_objectives: int, n_roles: int) -> Floats:
    """Return one optimum per objective: (objectives, roles)."""
    return np.random.default_rng(0).normal(0, 0.4, size=(n_objectives, n_roles))
