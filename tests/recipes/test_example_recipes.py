"""The recipes in docs/recipes: each loads, and gives its paper's formula on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from automerge.checkpoints import open_checkpoint
from automerge.config.recipe_file import read_recipe
from automerge.merging import ResidentEngine
from automerge.recipe import Recipe
from tests.checkpoints.models import llama, perturb, save
from tests.methods.dataless import DATALESS
from tests.methods.oracles import ties
from tests.methods.oracles_literature import LITERATURE

RECIPES = {p.stem: p for p in sorted((Path(__file__).parents[2] / "docs/recipes").glob("*.yaml"))}
N_LAYERS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Four different models in float32."""
    torch.manual_seed(0)
    root, model = tmp_path_factory.mktemp("models"), llama()
    return [save(perturb(model, seed), root / str(seed)) for seed in range(4)]


def merged(recipe: Recipe, folders: list[Path]) -> tuple[dict[str, torch.Tensor], list]:
    """The merged tensors, and in float64 those of the models, base first."""
    order = tuple(name for name in (recipe.base, *(s.name for s in recipe.sources)) if name)
    models = {name: open_checkpoint(f) for name, f in zip(order, folders, strict=False)}
    tensors = dict(ResidentEngine(models).merge(recipe))
    return tensors, [{n: m.read(n).double() for n in tensors} for m in models.values()]


def lines_factor(name: str) -> float:
    """α + β (l − 1) / (L − 1) in layers, α elsewhere."""
    layer = 1 + int(name.split(".")[2]) if "layers" in name else 1
    return 0.3 + 0.7 * (layer - 1) / (N_LAYERS - 1)


def lines(name, base, maths, code):
    return base + lines_factor(name) * (0.5 * (maths - base) + 0.5 * (code - base))


def expo(name, sft, aligned):
    return aligned + 0.3 * (aligned - sft)


def wise_ft(name, base, tuned):
    return (1 - 0.5) * base + 0.5 * tuned


def chat_vector(name, base, language, chat):
    return language + (chat - base)


def pem_unlearn(name, base, toxic):
    return base - (toxic - base)


def pem_multitask(name, base, one, other):
    return base + 0.5 * (one - base) + (1 - 0.5) * (other - base)


def ext_sub(name, base, expert, toxic):
    arrays = (base.numpy(), expert.numpy(), toxic.numpy())
    each = [{"weight": 1.0}] * 2
    return torch.from_numpy(LITERATURE["ext_sub"](arrays[0], arrays[1:], each, {"lambda": 1}, ()))


def independent(name, one, other):
    """Of models that are in the same order already; tests/merging/test_alignment.py has others."""
    return (one + other) / 2


def consensus_ties(name, base, *sources):
    vectors = [(source - base).numpy() for source in sources]
    total = sum(vectors)
    votes = sum(np.abs(vector) > 0.4 * np.abs(total - vector) for vector in vectors)
    used = [base.numpy() + vector * (votes >= 2) for vector in vectors]
    own, knobs = {"weight": 1.0, "density": 0.6}, {"lambda": 1.0, "normalize": True}
    return torch.from_numpy(ties(base.numpy(), used, [own] * 3, knobs, ()))


FORMULAS = {
    formula.__name__: formula
    for formula in (
        lines,
        expo,
        wise_ft,
        chat_vector,
        pem_unlearn,
        pem_multitask,
        ext_sub,
        independent,
        consensus_ties,
    )
}


@pytest.mark.parametrize("name", RECIPES)
def test_an_example_recipe_gives_the_formula_of_its_paper(name, folders):
    recipe = read_recipe(RECIPES[name]).recipe
    tensors, models = merged(recipe, folders)
    for tensor, value in tensors.items():
        expected = FORMULAS[name](tensor, *(model[tensor] for model in models))
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6, msg=tensor)


def test_every_formula_has_its_recipe():
    assert set(RECIPES) == set(FORMULAS)


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    "method", [m.name for m in DATALESS.values() if m.anchored and m.max_sources is None]
)
def test_lines_goes_with_every_method_that_has_a_base(method, folders):
    """The merged task vector of each tensor is that of λ = 1, times its layer's factor."""
    lines = read_recipe(RECIPES["lines"]).recipe
    sources = tuple(type(s)(s.name, {}) for s in lines.sources)
    plain = Recipe(method, sources, lines.base)
    whole, (base, *_) = merged(plain, folders)
    scaled, _ = merged(Recipe(method, sources, lines.base, lines.knobs), folders)
    for name, value in scaled.items():
        expected = base[name] + lines_factor(name) * (whole[name].double() - base[name])
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5, msg=name)
