"""A space with every kind of parameter, and smooth losses over it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from automerge.methods import METHODS
from automerge.space import Branch, Knots, Space, SpaceSettings, build_space
from automerge.trial import Params


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
    settings = SpaceSettings(
        methods=methods,
        depth=Knots(2),
        leave_out=leave_out,
        switches=("normalize",) if switched else (),
    )
    return build_space(settings, "base", sources, 6, METHODS)


def branch_cost(branch: Branch) -> float:
    """A number in [0, 0.3) that makes some branches better than others."""
    label = zlib.crc32(repr(sorted(branch.choices.items())).encode())
    return float(np.random.default_rng(label).uniform(0, 0.3))


def losses(space: Space, params: Params, n_objectives: int) -> list[float]:
    """Squared distances to one optimum an objective, plus what the branch costs."""
    branch = space.branch(params)
    cost = branch_cost(branch)
    vector = space.to_vector(params)
    used = [space.roles.index(role) for role in branch.roles]
    optima = np.random.default_rng(0).normal(0, 0.4, size=(n_objectives, len(space.roles)))
    return [float(cost + np.mean((vector[used] - optimum[used]) ** 2)) for optimum in optima]
