"""The recipes in docs/recipes/slices: each loads, and gives its paper's layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from automerge.checkpoints import open_checkpoint
from automerge.config.recipe_file import read_recipe
from automerge.files.yaml_file import parse_yaml
from automerge.mergekit import parse_mergekit, to_mergekit
from automerge.merging import ResidentEngine, merge_to_folder
from tests.checkpoints.models import llama, perturb, save

RECIPES = {
    path.stem: path
    for path in sorted((Path(__file__).parents[2] / "docs/recipes/slices").glob("*.yaml"))
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two models of 32 small layers."""
    torch.manual_seed(0)
    root, model = tmp_path_factory.mktemp("models"), llama(num_hidden_layers=32)
    return [save(perturb(model, seed), root / str(seed)) for seed in range(2)]


def models(name: str, folders: list[Path]):
    recipe = read_recipe(RECIPES[name]).recipe
    return recipe, dict(zip(recipe.models, map(open_checkpoint, folders), strict=False))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(8)[None]).logits


# The layers of each output layer, by model.
ORIGINS = {
    "solar": [{"base": i} for i in (*range(24), *range(8, 32))],
    "block_expansion": [
        {"base": i}
        for i in (*range(8), 7, *range(8, 16), 15, *range(16, 24), 23, *range(24, 32), 31)
    ],
    "layer_swap": [
        {"language": i}
        if i < 5 or i > 28
        else {"language": i, "maths": i}
        if i in (5, 28)
        else {"maths": i}
        for i in range(32)
    ],
}


@pytest.mark.parametrize("name", RECIPES)
def test_an_example_has_the_layers_of_its_paper(name, folders):
    recipe, opened = models(name, folders)
    tensors = dict(ResidentEngine(opened).merge(recipe))
    assert len(tensors) == 3 + 9 * len(ORIGINS[name])
    for layer, origins in enumerate(ORIGINS[name]):
        for rest in ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"):
            read = [opened[m].read(f"model.layers.{i}.{rest}") for m, i in origins.items()]
            expected = torch.stack(read).mean(dim=0)
            torch.testing.assert_close(tensors[f"model.layers.{layer}.{rest}"], expected)
    assert set(RECIPES) == set(ORIGINS)


def test_block_expansion_computes_what_the_model_does(folders, tmp_path):
    recipe, opened = models("block_expansion", folders)
    merge_to_folder(recipe, opened, tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(folders[0]))


@pytest.mark.parametrize("name", RECIPES)
def test_an_example_is_the_same_through_mergekits_words(name, folders):
    recipe, opened = models(name, folders)
    from automerge.checkpoints import layout

    targets = layout(recipe, {model: c.tensors for model, c in opened.items()})
    references = {model: f"org/{model}" for model in opened}
    text = to_mergekit(recipe, references, [target.place for target in targets]).text
    read = parse_mergekit(parse_yaml(text, "m.yaml"), Path("/nowhere"))
    again = {
        model: opened[reference.removeprefix("org/")] for model, reference in read.models.items()
    }
    ours, theirs = (
        dict(ResidentEngine(c).merge(r)) for c, r in ((opened, recipe), (again, read.recipe))
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[n]) for n, tensor in ours.items())
