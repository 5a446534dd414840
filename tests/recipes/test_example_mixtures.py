"""The recipes in docs/recipes/mixtures, and selectors of routers and experts, on tiny mixtures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from automerge.checkpoints import open_checkpoint, places
from automerge.config.recipe_file import read_recipe
from automerge.evidence import MemoryEvidence
from automerge.evidence.routing import Routing
from automerge.expert_groups import ExpertGroups
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Profile, Recipe, RecipeSource, selects
from automerge.samplers.random import draw
from automerge.space import build_space
from automerge.testing.spaces import plain_settings
from tests.checkpoints.models import llama, perturb, save

FOLDER = Path(__file__).parents[2] / "docs/recipes/mixtures"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
SIZES = {
    **{key: llama().config.to_dict()[key] for key in ("vocab_size", "hidden_size")},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
}
KINDS = {
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**SIZES, intermediate_size=24, num_local_experts=4, sliding_window=None)
    ),
    "qwen2_moe": lambda: hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(
            **SIZES,
            intermediate_size=24,
            moe_intermediate_size=12,
            shared_expert_intermediate_size=20,
            num_experts=4,
            num_experts_per_tok=2,
            mlp_only_layers=[0],
        )
    ),
}
ROUTERS = {
    "mixtral": [f"model.layers.{n}.block_sparse_moe.gate.weight" for n in range(2)],
    "qwen2_moe": [f"model.layers.1.mlp.{n}.weight" for n in ("gate", "shared_expert_gate")],
}
EXPERTS = {
    "mixtral": [
        f"model.layers.{n}.block_sparse_moe.experts.{e}.{w}.weight"
        for n in range(2)
        for e in range(4)
        for w in ("w1", "w2", "w3")
    ],
    "qwen2_moe": [
        f"model.layers.1.mlp.{part}.{w}_proj.weight"
        for part in (*(f"experts.{e}" for e in range(4)), "shared_expert")
        for w in ("gate", "up", "down")
    ],
}


@pytest.fixture(scope="module", params=list(KINDS))
def folders(request, tmp_path_factory) -> tuple[str, dict[str, Path]]:
    torch.manual_seed(0)
    root, model = tmp_path_factory.mktemp("models"), KINDS[request.param]()
    names = ("base", "maths", "code")
    made = {name: save(perturb(model, seed, 0.1), root / name) for seed, name in enumerate(names)}
    return request.param, made


def merged(recipe: Recipe, made: dict[str, Path]) -> tuple[dict[str, torch.Tensor], list]:
    """The merged tensors, and those of the models in the recipe's order."""
    opened = dict(zip(recipe.models, map(open_checkpoint, made.values()), strict=False))
    stored = [load_file(folder / "model.safetensors") for folder in made.values()]
    return dict(ResidentEngine(opened).merge(recipe)), stored


def test_routers_and_experts_are_selected_by_name(folders):
    kind, made = folders
    found = places(open_checkpoint(made["base"]).tensors)
    chosen = {
        selector: [name for name, place in found.items() if selects(selector, place)]
        for selector in ("router", "expert")
    }
    assert sorted(chosen["router"]) == sorted(ROUTERS[kind])
    assert sorted(chosen["expert"]) == sorted(EXPERTS[kind])
    assert all(found[name].component == "mlp" for own in chosen.values() for name in own)
    dense = places(llama().state_dict())
    assert not any(selects(selector, place) for selector in chosen for place in dense.values())


def test_the_first_selector_that_matches_decides(folders):
    kind, made = folders
    place = places(open_checkpoint(made["base"]).tensors)[ROUTERS[kind][0]]
    assert Profile.of({"router": 0, "mlp": 1, "default": 2}).at(place) == 0
    assert Profile.of({"mlp": 1, "router": 0, "default": 2}).at(place) == 1


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "fewer_experts"])
def test_an_example_recipe_gives_what_it_says(name, folders):
    kind, made = folders
    recipe = read_recipe(RECIPES[name]).recipe
    tensors, (base, maths, code) = merged(recipe, made)
    for tensor, value in tensors.items():
        if name == "routers_kept" and tensor in ROUTERS[kind]:
            wanted = base[tensor]
        elif name == "routers_kept":
            wanted = base[tensor] + 0.5 * (maths[tensor] - base[tensor])
            wanted += 0.5 * (code[tensor] - base[tensor])
        else:
            wanted = (maths if tensor in EXPERTS[kind] else base)[tensor]
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6, msg=tensor)
    assert all(torch.equal(tensors[router], base[router]) for router in ROUTERS[kind])


def test_the_example_of_fewer_experts_keeps_all_else(folders):
    """Its four experts are all of these models' own; tests/merging has the groups of fewer."""
    kind, made = folders
    recipe = read_recipe(RECIPES["fewer_experts"]).recipe
    assert recipe.experts == ExpertGroups(4, "outputs")
    [digest] = recipe.evidence["routing"].values()
    opened = {"base": open_checkpoint(made["base"])}
    alike = Routing(torch.full((4,), 0.25), torch.arange(4.0)[:, None], torch.eye(4)).packed()
    routing = MemoryEvidence("routing", digest, dict.fromkeys(ROUTERS[kind], alike))
    tensors = dict(ResidentEngine(opened, evidence={digest: routing}).merge(recipe))
    stored = load_file(made["base"] / "model.safetensors")
    assert tensors.keys() == stored.keys()
    assert all(torch.equal(tensors[name], stored[name]) for name in stored)


def test_the_live_model_with_averaged_or_kept_routers_is_the_exported_one(folders, tmp_path):
    _, made = folders
    opened = {name: open_checkpoint(folder) for name, folder in made.items()}
    live = hf.AutoModelForCausalLM.from_pretrained(made["base"])
    engine = ResidentEngine(opened)
    found = []
    for number, weight in enumerate((0.5, {"router": 0, "default": 0.5})):
        sources = (RecipeSource(n, {"weight": Profile.of(weight)}) for n in ("maths", "code"))
        recipe = Recipe("task_arithmetic", tuple(sources), "base")
        merge_to_folder(recipe, opened, tmp_path / f"{number}")
        exported = hf.AutoModelForCausalLM.from_pretrained(tmp_path / f"{number}")
        engine.merge_into(live, recipe)
        with torch.no_grad():
            own, wanted = (model(torch.arange(12)[None]).logits for model in (live, exported))
        assert torch.equal(own, wanted)
        found.append(own)
    assert not torch.equal(*found)


def test_a_search_has_a_weight_for_routers_of_its_own():
    settings = plain_settings("task_arithmetic", components=(("router",), ("default",)))
    space = build_space(replace(settings, varying=("weight",)), "base", ("a", "b"), 2, METHODS)
    recipe = space.recipe(draw(space, np.random.default_rng(0)))
    for source in recipe.sources:
        assert [selector for selector, _ in source.knobs["weight"].parts] == ["router", "default"]
    assert check_recipe(recipe, METHODS) == []
