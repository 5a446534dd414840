"""The conditional search space: parameters ↔ recipe, vectors ↔ parameters."""

from automerge.space.build import MAX_CHOICES, MAX_DIMENSION, build_space
from automerge.space.parameters import (
    UNIFORM_SCALE,
    BooleanParameter,
    CategoricalParameter,
    FloatParameter,
    Parameter,
    prior_fractions,
    prior_shares,
)
from automerge.space.settings import Depth, Groups, Knots, PerLayer, SpaceSettings
from automerge.space.space import Branch, Space
from automerge.space.sweep import simplex_sweep, sweep_size

__all__ = [
    "MAX_CHOICES",
    "MAX_DIMENSION",
    "UNIFORM_SCALE",
    "BooleanParameter",
    "Branch",
    "CategoricalParameter",
    "Depth",
    "FloatParameter",
    "Groups",
    "Knots",
    "Parameter",
    "PerLayer",
    "Space",
    "SpaceSettings",
    "build_space",
    "prior_fractions",
    "prior_shares",
    "simplex_sweep",
    "sweep_size",
]
