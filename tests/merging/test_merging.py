"""Live models, exported folders and the formulas agree."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from automerge.checkpoints import open_checkpoint
from automerge.errors import ConfigError, PreflightError
from automerge.merging import InvalidMerge, ResidentEngine, merge_to_folder
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource, single, uniform_average
from tests.checkpoints.models import llama, save
from tests.methods.dataless import DATALESS

ALL = pytest.mark.parametrize("method", DATALESS)


def recipe(method: str, shift: float = 0.0, **changes) -> Recipe:
    declared = METHODS[method]
    names = ("maths", "code", "chat")[: declared.max_sources or 3]
    knobs = {"weight": [0.8, 0.2 + shift], "density": {"mlp": 0.4, "default": 0.7}}
    shared = {"lambda": [0.9, 1.2], "t": {"attention": [0.1, 0.9], "default": 0.5 + shift}}
    made = Recipe(
        method,
        tuple(
            RecipeSource(
                n,
                {
                    k.name: Profile.of(knobs[k.name])
                    for k in declared.source_knobs
                    if k.name in knobs
                },
            )
            for n in names
        ),
        base="base" if declared.anchored else None,
        knobs={
            k.name: Profile.of(shared[k.name]) for k in declared.recipe_knobs if k.name in shared
        },
        seed=4,
    )
    return dataclasses.replace(made, **changes)


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def same_bits(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(n == m and torch.equal(a, b) for (n, a), (m, b) in pairs)


@pytest.fixture(scope="session")
def bases(folders):
    """The base by the dtype of its parameters, to be copied."""
    return {dtype: load(folders["base"], dtype) for dtype in (torch.float32, torch.bfloat16)}


@pytest.mark.sample(12)
@pytest.mark.parametrize("method", [*DATALESS, "consensus+ties", "dare+star"])
def test_live_models_of_any_dtype_and_the_exported_folder_have_the_same_bits(
    method, bases, checkpoints, tmp_path
):
    written = merge_to_folder(recipe(method), checkpoints, tmp_path / "out", shard_bytes=5_000)
    assert len(written.sha256) > 1
    exported = load(written.path, "auto")
    assert exported.dtype == torch.bfloat16
    for dtype, base in bases.items():
        live, engine = copy.deepcopy(base), ResidentEngine(checkpoints)
        engine.merge_into(live, recipe(method, 0.1))
        engine.merge_into(live, recipe(method))
        assert same_bits(live, copy.deepcopy(exported).to(dtype)), dtype
        assert not same_bits(live, base)


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", ["base", "maths", "code"])
def test_a_single_model_is_returned_bit_for_bit(name, folders, checkpoints, tmp_path):
    live = load(folders["base"])
    ResidentEngine(checkpoints).merge_into(live, single(name))
    assert same_bits(live, load(folders[name]))
    merge_to_folder(single(name), checkpoints, tmp_path / "out")
    assert same_bits(load(folders[name], "auto"), load(tmp_path / "out", "auto"))


def test_the_uniform_average_is_the_mean_of_all_parameters(folders, checkpoints):
    names = ["maths", "code", "chat"]
    live = load(folders["base"])
    ResidentEngine(checkpoints).merge_into(live, uniform_average(names))
    states = [load(folders[name]).state_dict() for name in names]
    for name, parameter in live.state_dict().items():
        mean = sum(state[name].double() for state in states) / 3
        assert torch.equal(parameter, mean.bfloat16().float()), name


def test_only_tensors_whose_values_changed_are_merged_again(folders, checkpoints):
    live, engine = load(folders["base"]), ResidentEngine(checkpoints)
    before = {name: p.data_ptr() for name, p in live.named_parameters()}
    first = engine.merge_into(live, recipe("ties"))
    assert first.n_written == first.n_tensors == len(before)
    assert engine.merge_into(live, recipe("ties")).n_written == 0
    made = recipe("ties")
    knobs = dict(made.sources[0].knobs) | {
        "weight": Profile.of({"norm": 0.55, "default": [0.8, 0.2]})
    }
    changed = dataclasses.replace(made, sources=(RecipeSource("maths", knobs), *made.sources[1:]))
    norms = sum("norm" in n or "ln_" in n for n in before)
    assert 0 < engine.merge_into(live, changed).n_written == norms
    fresh = load(folders["base"])
    ResidentEngine(checkpoints).merge_into(fresh, changed)
    assert same_bits(live, fresh)
    assert before == {name: p.data_ptr() for name, p in live.named_parameters()}


def test_a_tensor_is_written_once_a_merge_and_a_tied_one_too(folders, checkpoints):
    live, engine = load(folders["base"]), ResidentEngine(checkpoints)

    def writes():
        # Parameters in float32, models in bfloat16: a merged tensor is one copy.
        return {n: p._version for n, p in live.named_parameters(remove_duplicate=False)}

    unwritten = writes()
    assert "lm_head.weight" in unwritten
    engine.merge_into(live, recipe("ties"))
    assert writes() == {name: version + 1 for name, version in unwritten.items()}
    engine.merge_into(live, recipe("ties"))
    assert writes() == {name: version + 1 for name, version in unwritten.items()}


def test_another_storage_dtype_is_written_and_named_in_the_config(checkpoints, tmp_path):
    made = recipe("task_arithmetic", dtype="float16")
    merge_to_folder(made, checkpoints, tmp_path / "out")
    assert {t.dtype for t in load_file(tmp_path / "out/model.safetensors").values()} == {
        torch.float16
    }
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float16"
    live = load(tmp_path / "out")
    ResidentEngine(checkpoints).merge_into(live, made)
    assert same_bits(live, load(tmp_path / "out"))


def test_the_folder_carries_the_tokenizer_and_the_given_texts(checkpoints, tmp_path):
    out = tmp_path / "out"
    seen = []
    merge_to_folder(
        recipe("ties"),
        checkpoints,
        out,
        texts={"README.md": "# hällo"},
        progress=lambda *p: seen.append(p),
    )
    assert AutoTokenizer.from_pretrained(out)("w0 w1").input_ids == [3, 4]
    assert (out / "README.md").read_text(encoding="utf-8") == "# hällo"
    n = len(checkpoints["base"].tensors)
    assert seen == [(i, n) for i in range(1, n + 1)]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named_before_anything_is_scored(
    poison, folders, checkpoints, tmp_path
):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folders["maths"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "model.safetensors")
    name = sorted(state)[5]
    state[name].view(-1)[7] = poison
    save_file(state, broken / "model.safetensors")
    poisoned = {**checkpoints, "maths": open_checkpoint(broken)}
    live, engine = load(folders["base"]), ResidentEngine(poisoned)
    with pytest.raises(InvalidMerge, match=name):
        engine.merge_into(live, recipe("ties"))
    with pytest.raises(InvalidMerge, match=name):
        merge_to_folder(recipe("ties"), poisoned, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]
    engine.merge_into(live, single("code"))
    assert same_bits(live, load(folders["code"]))


def test_weights_that_sum_to_zero_are_invalid(folders, checkpoints):
    weights = {"maths": 1.0, "code": -1.0}
    made = Recipe(
        "linear",
        tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items()),
    )
    with pytest.raises(InvalidMerge):
        ResidentEngine(checkpoints).merge_into(load(folders["base"]), made)


def test_float16_overflow_is_invalid(checkpoints):
    made = Recipe(
        "linear",
        (RecipeSource("big", {}),),
        dtype="float16",
    )
    from automerge.checkpoints import MemoryCheckpoint

    big = MemoryCheckpoint({"w": torch.tensor([1e5])})
    with pytest.raises(InvalidMerge):
        list(ResidentEngine({"big": big}).merge(made))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (single("matsh"), "unknown model 'matsh'; did you mean 'maths'"),
        (recipe("ties", base=None), "base"),
        (dataclasses.replace(recipe("ties"), method="tise"), "did you mean 'ties'"),
    ],
)
def test_a_recipe_that_cannot_be_merged_is_a_config_error(made, message, checkpoints, tmp_path):
    with pytest.raises(ConfigError, match=message):
        list(ResidentEngine(checkpoints).merge(made))
    with pytest.raises(ConfigError, match=message):
        merge_to_folder(made, checkpoints, tmp_path / "out")


def test_models_of_other_shapes_are_refused(checkpoints, tmp_path):
    other = open_checkpoint(save(llama(hidden_size=32), tmp_path / "other"))
    with pytest.raises(PreflightError, match="other, compared with maths"):
        list(
            ResidentEngine({**checkpoints, "other": other}).merge(
                uniform_average(["maths", "other"])
            )
        )


def test_a_live_model_of_another_architecture_is_refused(checkpoints):
    with pytest.raises(PreflightError, match="checkpoint tensor"):
        ResidentEngine(checkpoints).merge_into(llama(num_hidden_layers=1), single("maths"))


def test_the_output_folder_may_not_be_an_input(folders, checkpoints):
    with pytest.raises(PreflightError, match="contains a model that is to be merged"):
        merge_to_folder(recipe("ties"), checkpoints, folders["maths"], overwrite=True)
    with pytest.raises(PreflightError, match="contains a model that is to be merged"):
        merge_to_folder(recipe("ties"), checkpoints, folders["maths"].parent, overwrite=True)


def test_integer_tensors_are_copied_from_the_base():
    from automerge.checkpoints import MemoryCheckpoint

    models = {
        name: MemoryCheckpoint({"w": torch.ones(3) * n, "steps": torch.tensor([n])})
        for n, name in enumerate(("base", "maths", "code", "chat"))
    }
    merged = dict(ResidentEngine(models).merge(recipe("task_arithmetic")))
    assert merged["steps"].tolist() == [0]
    assert merged["w"].dtype == torch.float32
