"""A recipe's smooth numbers as a vector, and more of them for the same merge."""

from __future__ import annotations

import pytest

from automerge.checkpoints.places import places
from automerge.errors import ConfigError
from automerge.methods import METHODS
from automerge.recipe import Coordinate, Place, Profile, Recipe, RecipeSource, Slice
from automerge.refinement import DETAILS, detailed, explicit, numbers, with_values

LAYERS = 5
TENSORS = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(
        f"model.layers.{i}.{name}.weight"
        for i in range(LAYERS)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "norm", "mlp.norm")
    ),
]
PLACES: list[Place] = [*places(TENSORS).values()]
RICH = Recipe(
    "ties",
    (
        RecipeSource("a", {"weight": Profile.of({"*q_proj*": [0.1, 0.9], "mlp": [1.0, 0.2, 0.7]})}),
        RecipeSource("b", {"weight": Profile.of([0.3, 0.5]), "density": Profile.of(0.4)}),
        RecipeSource("c", {}),
    ),
    base="base",
    knobs={"lambda": Profile.of({"norm": 0.5, "default": [1.0, 1.25]}), "normalize": True},
)
SLERP = Recipe("slerp", (RecipeSource("a", {}), RecipeSource("b", {})))


def at_all_places(recipe: Recipe) -> list[object]:
    return [METHODS[recipe.method].values(recipe, place) for place in PLACES]


def close(left: object, right: object) -> bool:
    """Values that differ in the sixth digit at most, which is as exact as a recipe's numbers."""
    return all(
        a.switch == b.switch
        and list(a.each) == list(b.each)
        and all(a.each[k] == pytest.approx(b.each[k], abs=2e-6) for k in a.each)
        and a.number == pytest.approx(b.number, abs=2e-6)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("recipe", [RICH, SLERP], ids=["ties", "slerp"])
@pytest.mark.parametrize("detail", DETAILS)
def test_more_detail_is_the_same_merge(recipe: Recipe, detail: str) -> None:
    method = METHODS[recipe.method]
    written = explicit(recipe, method)
    assert at_all_places(written) == at_all_places(recipe)
    finer = detailed(written, method, PLACES, detail)
    assert close(at_all_places(finer), at_all_places(recipe))


@pytest.mark.parametrize("detail", DETAILS)
def test_every_number_moves_some_tensor_and_none_another_than_its_own(detail: str) -> None:
    method = METHODS["task_arithmetic"]
    plain = Recipe("task_arithmetic", (RecipeSource("a", {}),), base="base")
    finer = detailed(explicit(plain, method), method, PLACES, detail)
    found = numbers(finer, method)
    before = at_all_places(finer)
    for number in found:
        after = at_all_places(with_values(finer, {number.coordinate: number.value + 0.5}))
        assert before != after
    expected = {
        "none": 1,
        "depth": 3,
        # attention, mlp and norm at both ends; embedding and head at theirs.
        "components": 8,
        "per_layer": 3 * LAYERS + 2,
        "per_tensor": len(TENSORS),
    }
    assert len(found) == expected[detail]


def test_numbers_are_those_with_slopes_and_values_can_be_put_back() -> None:
    method = METHODS["ties"]
    written = explicit(RICH, method)
    found = numbers(written, method)
    assert {number.coordinate.knob for number in found} == {"weight", "lambda"}
    assert with_values(written, {n.coordinate: n.value for n in found}) == written
    moved = with_values(written, {Coordinate("a", "weight", "mlp", 1): 0.123456789})
    [(selector, knots)] = [p for p in moved.sources[0].knobs["weight"].parts if p[0] == "mlp"]
    assert (selector, knots) == ("mlp", (1.0, 0.123457, 0.7))
    assert moved.sources[1:] == written.sources[1:]
    assert moved.knobs == written.knobs


def test_a_factor_on_all_weights_is_moved_only_where_it_is_written_or_no_weight_is() -> None:
    method = METHODS["task_arithmetic"]
    plain = Recipe("task_arithmetic", (RecipeSource("a", {}),), base="base")
    assert [n.coordinate.knob for n in numbers(explicit(plain, method), method)] == ["weight"]
    slerp = explicit(SLERP, METHODS["slerp"])
    assert [n.coordinate.knob for n in numbers(slerp, METHODS["slerp"])] == ["t"]


def test_small_knobs_are_moved_by_small_steps() -> None:
    recipe = explicit(Recipe("nearswap", SLERP.sources[:1], base="base"), METHODS["nearswap"])
    units = {n.coordinate.knob: n.unit for n in numbers(recipe, METHODS["nearswap"])}
    assert units["t"] == 0.01


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe("linear", SLERP.sources, slices=(Slice({"a": (0, 2)}),)), "slices"),
        (Recipe("iso_cts", SLERP.sources, base="base"), "iso_cts has no number with a slope"),
    ],
)
def test_a_recipe_without_slopes_is_refused_in_one_sentence(recipe: Recipe, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        explicit(recipe, METHODS[recipe.method])
    assert len(refused.value.faults) == 1
