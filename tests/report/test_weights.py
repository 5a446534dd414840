import pytest

from automerge.recipe import Place, Profile, Recipe, RecipeSource, Slice
from automerge.report.weights import knob_rows, layers_in_words

RECIPE = Recipe(
    "ties",
    (
        RecipeSource("a", {"weight": Profile.of({"mlp": [0, 1], "default": 0.5})}),
        RecipeSource("b", {"weight": Profile.of([1, 0, 1]), "density": Profile.of(0.3)}),
    ),
    base="base",
    knobs={"lambda": Profile.of(0.7), "normalize": True},
)


def test_rows_are_what_the_recipe_gives_its_tensors():
    rows = knob_rows(RECIPE, 5)
    mlp = next(r for r in rows if r.source == "a" and r.selector == "mlp")
    profile = RECIPE.sources[0].knobs["weight"]
    for layer, value in enumerate(mlp.values):
        place = Place(f"model.layers.{layer}.mlp.up_proj.weight", "mlp", layer / 4, layer)
        assert value == pytest.approx(profile.at(place))


def test_rows_come_by_knob_weight_first_and_the_methods_own_last():
    rows = [(r.knob, r.source, r.selector) for r in knob_rows(RECIPE, 5)]
    assert rows == [
        ("weight", "a", "mlp"),
        ("weight", "a", "rest"),
        ("weight", "b", ""),
        ("density", "b", ""),
        ("lambda", "", ""),
    ]


@pytest.mark.parametrize("layers", [0, 1])
def test_models_of_one_layer_have_one_column(layers):
    assert all(len(r.values) == 1 for r in knob_rows(RECIPE, layers))


def test_rows_of_a_stack_run_over_its_own_layers():
    a, b = ({"weight": Profile.of([0, 1])} for _ in range(2))
    half = {"a": {"weight": Profile.of(0.5)}}
    pieces = (Slice({"a": (0, 3)}), Slice({"a": (1, 3), "b": (0, 2)}, half))
    recipe = Recipe("linear", (RecipeSource("a", a), RecipeSource("b", b)), slices=pieces)
    rows = {row.source: row.values for row in knob_rows(recipe, 3)}
    assert rows == {"a": (0, 0.5, 1, 0.5, 0.5), "b": (None, None, None, 0, 1)}
    assert layers_in_words(recipe) == "0 to 2, a's 1 to 2 with b's 0 to 1"
    assert layers_in_words(RECIPE) == ""
