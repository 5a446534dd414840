"""The strength of a calibration after the merge, searched as one more number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from automerge.methods import METHODS, check_recipe
from automerge.space import build_space
from automerge.testing.spaces import plain_settings

DIGESTS = {name: name * 32 for name in ("base", "a", "b")}
SETTINGS = plain_settings("ties", calibrate=True, evidence={"activations": DIGESTS})
SPACE = build_space(SETTINGS, "base", ("a", "b"), 4, METHODS)


def middle() -> dict:
    return dict(SPACE.from_vector(SPACE.branches[0], np.zeros(len(SPACE.roles))))


@given(st.floats(-0.5, 1.0))
def test_a_strength_above_zero_is_the_recipes_with_the_sources_activations(strength: float) -> None:
    recipe = SPACE.recipe({**middle(), "repair": strength})
    assert abs(recipe.repair - max(strength, 0.0)) < 1e-6
    assert check_recipe(recipe, METHODS) == []
    named = recipe.evidence.get("activations", {})
    assert dict(named) == ({n: DIGESTS[n] for n in ("a", "b")} if recipe.repair else {})
    params = SPACE.params(recipe)
    assert params is not None
    assert SPACE.recipe(params).plain() == recipe.plain()


def test_a_recipe_with_other_activations_or_a_space_without_calibration_has_no_parameters() -> None:
    recipe = SPACE.recipe({**middle(), "repair": 0.5})
    other = {"activations": {"a": "a" * 32, "b": "c" * 32}}
    assert SPACE.params(replace(recipe, evidence=other)) is None
    plain = build_space(plain_settings("ties"), "base", ("a", "b"), 4, METHODS)
    assert plain.params(recipe) is None
    assert plain.params(replace(recipe, repair=0.0, evidence={})) is not None
