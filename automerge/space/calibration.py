"""Whether a merged model is calibrated, and how much: one number, at or below 0 for not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from automerge.recipe import CALIBRATED_BY, REPAIR, Recipe
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

_LOW = -0.5
"""A third of the prior is below 0."""


@dataclass(frozen=True)
class Calibration:
    """The strength of REPAIR; `evidence` has the digest of each model's activations."""

    evidence: Mapping[str, str]

    @cached_property
    def parameter(self) -> FloatParameter:
        """The strength, in [0, 1]; none below 0."""
        return FloatParameter(REPAIR, REPAIR, _LOW, 1.0, smooth=False)

    @property
    def in_words(self) -> str:
        """What it searches."""
        return "1 dimension: the strength of repair, from 0 (a third of the prior) to 1"

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe that is calibrated as much as the parameters say."""
        strength = float(params[REPAIR])
        if strength <= 0:
            return recipe
        digests = {source.name: self.evidence[source.name] for source in recipe.sources}
        evidence = {**recipe.evidence, CALIBRATED_BY: digests}
        return replace(recipe, repair=strength, evidence=evidence)

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe`; None where its sources' activations are others."""
        if not recipe.repair:
            return recipe, {REPAIR: _LOW / 2}
        digests = recipe.evidence.get(CALIBRATED_BY, {})
        if any(digests.get(s.name) != self.evidence.get(s.name) for s in recipe.sources):
            return None
        evidence = {kind: d for kind, d in recipe.evidence.items() if kind != CALIBRATED_BY}
        return replace(recipe, repair=0.0, evidence=evidence), {REPAIR: recipe.repair}
