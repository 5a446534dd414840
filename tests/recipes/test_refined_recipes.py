"""The recipes in docs/recipes/refine: the command that each shows refines its paper's numbers."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from automerge import cli
from automerge.checkpoints import open_checkpoint, places
from automerge.config.recipe_file import RecipeFile, read_recipe, write_recipe
from automerge.methods import METHODS
from automerge.refinement import numbers
from tests.evaluation.toys import make_model
from tests.refinement.zoo import FIRST, changed, written
from tests.zoo import save

FOLDER = Path(__file__).parents[2] / "docs/recipes/refine"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
LAYERS, COMPONENTS = 2, 3
TENSORS = len([*make_model("llama", 0).named_parameters()])
PER_LAYER = COMPONENTS * LAYERS + 2
"""Attention, feed-forward and norms in every layer, embedding and head once."""
NUMBERS = {
    "adamerging": 3,
    "adamerging_layerwise": 3 * TENSORS,
    "adamerging_plus_plus": 3 * TENSORS,
    "lora_soup_cat": 2 * TENSORS,
    "learned_soup": 3,
    "mehl_soup": 3,
    "atlas": 3 * TENSORS,
    "dare_ties_differentiable": 3 * PER_LAYER,  # two weights and λ
    "self_positioning": 3,
    "alignment_tax": 2 * 3,
    "dam": 2 * TENSORS,
}


def adapter(folder: Path, seed: int):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    adapted = get_peft_model(make_model("llama", 0), settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, three fine-tunes, three adapters, and text that the first of each would write."""
    folder = tmp_path_factory.mktemp("zoo")
    save(make_model("llama", 0), folder / "base")
    for seed in (3, 2, 1):
        source = changed(seed, 0.15)
        save(source, folder / f"source-{seed}")
        adapted = adapter(folder / f"adapter-{seed}", seed)
    for kind, model in (("source", source), ("adapter", adapted)):
        words = (token - FIRST for row in written(model, 60, 5) for token in row)
        (folder / f"text-{kind}").write_text(" ".join(f"w{word}" for word in words))
    return folder


def command(path: Path) -> list[str]:
    [line] = re.findall(r"^# +automerge (refine .*)$", path.read_text(encoding="utf-8"), re.M)
    return shlex.split(line)


def kind_of(file: RecipeFile) -> str:
    return "adapter" if any("lora" in model for model in file.models.values()) else "source"


def with_models(file: RecipeFile, zoo: Path, out: Path) -> RecipeFile:
    """The recipe with the zoo's models in place of those it names."""
    models = {name: str(zoo / "base") for name in file.models if name == file.recipe.base}
    for i, source in enumerate(file.recipe.sources, start=1):
        models[source.name] = str(zoo / f"{kind_of(file)}-{i}")
    write_recipe(file.recipe, models, out)
    return read_recipe(out)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_refines_it(
    name: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = command(RECIPES[name])
    file = read_recipe(RECIPES[name])
    for value in (b for a, b in pairwise(arguments) if a == "--text"):
        (tmp_path / value.rpartition("=")[2]).symlink_to(zoo / f"text-{kind_of(file)}")
    start = with_models(file, zoo, tmp_path / arguments[1])
    short = ("--length", "24", "--tokens", "200", "--rate", "0.01", "--steps", "3")
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, *short, "--device", "cpu"])
    assert ended.value.code == 0
    refined = read_recipe(tmp_path / "refined.yaml").recipe
    method = METHODS[refined.method]
    assert len(numbers(refined, method)) == NUMBERS[name]
    for place in places(open_checkpoint(zoo / "source-1").tensors).values():
        before, after = (method.values(recipe, place) for recipe in (start.recipe, refined))
        assert before.switch == after.switch
        fixed = {knob.name for knob in method.knobs if not knob.smooth} & set(before.each)
        assert all(before.each[knob] == after.each[knob] for knob in fixed)
        moved = [abs(a - b) for k in before.each for a, b in
                 zip(before.each[k], after.each[k], strict=True)]  # fmt: skip
        assert max(moved) <= 0.03 + 1e-6


def test_every_recipe_is_counted() -> None:
    assert set(RECIPES) == set(NUMBERS)
