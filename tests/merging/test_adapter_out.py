"""A merge of adapters is written as an adapter, and PEFT makes the merged model of it."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

import automerge
from automerge import cli
from automerge.checkpoints import Checkpoint, open_checkpoint, open_together
from automerge.checkpoints.adapters.write import Trained
from automerge.config import load_config
from automerge.config.recipe_file import read_recipe
from automerge.errors import ConfigError, PreflightError
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.merging.adapter import merge_to_adapter
from automerge.merging.low_rank_fit import matrix_fit, product_fit
from automerge.recipe import Profile, Recipe, RecipeSource, Slice, Vocabulary, single
from tests.checkpoints.adapters import logits
from tests.checkpoints.models import gpt2, llama, perturb, save
from tests.zoo import write_zoo

TRAINED = Trained("org/base", None, "CAUSAL_LM")


def write_adapter(base: Path, folder: Path, seed: int, **config) -> Path:
    """An adapter of random factors, as PEFT saves it."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "tied", "gpt2"])
def folders(request, tmp_path_factory) -> Mapping[str, Path]:
    """A base, adapters of it with different modules and ranks, and a fine-tune."""
    root = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = {"llama": llama, "tied": lambda: llama(tied=True), "gpt2": gpt2}[request.param]()
    base = save(perturb(model, 3, 0.2), root / "base")
    some, embedding, norms = (
        (["c_attn"], "wte", ["ln_1"])
        if request.param == "gpt2"
        else (["q_proj", "down_proj"], "embed_tokens", ["input_layernorm"])
    )
    return {
        "base": base,
        "maths": write_adapter(base, root / "maths", 1, r=2, target_modules=some),
        "code": write_adapter(
            base,
            root / "code",
            2,
            r=3,
            lora_alpha=5,
            use_rslora=True,
            target_modules="all-linear",
            rank_pattern={some[0]: 4},
        ),
        "words": write_adapter(base, root / "words", 3, r=2, target_modules=[*some, embedding]),
        "norms": write_adapter(
            base, root / "norms", 4, r=2, target_modules=some, modules_to_save=norms
        ),
        "rows": write_adapter(
            base, root / "rows", 5, r=2, target_modules=some, modules_to_save=[embedding]
        ),
        "chat": save(perturb(model, 6, 0.05), root / "chat"),
    }


def opened(folders: Mapping[str, Path], *names: str) -> Mapping[str, Checkpoint]:
    return open_together({name: folders[name] for name in ("base", *names)}, "base")


def by_peft(base: Path, adapter: Path) -> torch.Tensor:
    """The logits of PEFT's model; nothing in the adapter may be missing or left over."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="(?i).*(missing|unexpected)")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
        return logits(model.eval())


def weighted(method: str = "task_arithmetic", **weights) -> Recipe:
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items())
    return Recipe(method, sources, base="base" if method != "linear" else None)


EXACT = {
    "sum": weighted(maths=0.7, code=-0.4),
    "average": weighted("linear", maths=3, code=1),
    "per_component": weighted(maths={"attention": [0.2, 1.5], "default": 0}, code=[1, 0.1]),
    "words": weighted(words=0.8, maths=0.5),
    "norms": weighted(norms=0.6, code=0.5),
    "rows": weighted(rows=0.6, code=-0.5),
    "stock": Recipe("model_stock", (RecipeSource("maths", {}), RecipeSource("code", {})), "base"),
}


def of_folder(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder).eval())


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", EXACT)
def test_pefts_model_of_the_adapter_is_the_merged_model(name, folders, tmp_path):
    recipe = EXACT[name]
    models = opened(folders, *(s.name for s in recipe.sources))
    merge_to_folder(recipe, models, tmp_path / "whole")
    found = merge_to_adapter(recipe, models, "base", tmp_path / "adapter", TRAINED)
    assert found.relative_error == 0
    assert all(accuracy.relative_error == 0 for accuracy in found.modules.values())
    expected = of_folder(tmp_path / "whole")
    assert (expected - of_folder(folders["base"])).abs().max() > 0.01
    close(by_peft(folders["base"], tmp_path / "adapter"), expected)
    again = open_checkpoint(tmp_path / "adapter", models["base"])
    whole = open_checkpoint(tmp_path / "whole", models["base"])
    for tensor in whole.tensors:
        close(again.read(tensor), whole.read(tensor))


@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_readers_that_know_no_patterns_of_ranks_find_the_same_scale(folders, tmp_path):
    """vLLM scales every module by lora_alpha / r."""
    recipe = EXACT["per_component"]
    merge_to_adapter(recipe, opened(folders, "maths", "code"), "base", tmp_path / "out", TRAINED)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert config["alpha_pattern"] == config["rank_pattern"] != {}
    assert config["modules_to_save"] is None
    assert config["bias"] == "none"


@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_modules_are_targeted_by_their_short_names_where_that_finds_no_others(folders, tmp_path):
    models = opened(folders, "maths", "code")
    merge_to_adapter(weighted(maths=1, code=1), models, "base", tmp_path / "all", TRAINED)
    config = json.loads((tmp_path / "all/adapter_config.json").read_text())
    assert config["target_modules"] == [
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    ]
    first = weighted(maths={"*layers.0.*q_proj*": 1, "default": 0})
    merge_to_adapter(first, models, "base", tmp_path / "one", TRAINED)
    config = json.loads((tmp_path / "one/adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj"]


# To a wanted rank


@pytest.mark.sample(4)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("rank", [1, 5, 24])
@pytest.mark.parametrize("folders", ["llama", "gpt2"], indirect=True)
def test_a_wanted_rank_gives_the_nearest_change_and_says_how_near(method, rank, folders, tmp_path):
    """Against NumPy's SVD of the whole change in float64 (Eckart and Young)."""
    recipe = weighted(method, maths=0.7, code=0.6)
    models = opened(folders, "maths", "code")
    merged = dict(ResidentEngine(models).merge(recipe))
    found = merge_to_adapter(recipe, models, "base", tmp_path / "out", TRAINED, rank=rank)
    ours = open_checkpoint(tmp_path / "out", models["base"])
    squares, errors = 0.0, 0.0
    for name, tensor in merged.items():
        base = models["base"].read(name).double()
        change = (tensor.double() - base).numpy()
        if not change.any():
            continue
        values = np.linalg.svd(change, compute_uv=False)
        error, square = (values[rank:] ** 2).sum(), (values**2).sum()
        squares, errors = squares + square, errors + error
        said = found.modules[name.removesuffix(".weight")]
        assert said.rank <= rank
        assert said.relative_error == pytest.approx(np.sqrt(error / square), abs=2e-5)
        left = np.linalg.norm((ours.read(name).double() - base).numpy() - change)
        assert left**2 == pytest.approx(error, rel=1e-3, abs=1e-7 * square)
    assert found.relative_error == pytest.approx(np.sqrt(errors / squares), abs=2e-5)


@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_a_fine_tune_becomes_an_adapter_of_a_wanted_rank(folders, tmp_path):
    """At full rank, PEFT's model is the fine-tune; its norms are stored whole."""
    models = opened(folders, "chat")
    found = merge_to_adapter(single("chat"), models, "base", tmp_path / "out", TRAINED, rank=64)
    assert "model.norm.weight" in found.whole
    close(by_peft(folders["base"], tmp_path / "out"), of_folder(folders["chat"]))


@given(
    arrays(np.float64, (5, 3), elements=st.integers(-9, 9)),
    arrays(np.float64, (3, 6), elements=st.integers(-9, 9)),
    st.integers(1, 4),
)
def test_a_product_and_its_matrix_have_the_same_nearest(up, down, rank):
    matrix = up @ down
    product = product_fit(torch.from_numpy(up), torch.from_numpy(down), rank)
    whole = matrix_fit(torch.from_numpy(matrix), rank)
    expected = (np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum()
    size = (matrix**2).sum()
    for fit in (product, whole):
        assert fit.rank <= rank
        assert fit.square == pytest.approx(size, rel=1e-9)
        assert fit.error == pytest.approx(expected, abs=1e-9 * size, rel=1e-9)
        left = ((fit.up.double() @ fit.down.double()).numpy() - matrix) ** 2
        assert left.sum() == pytest.approx(expected, abs=1e-9 * size, rel=1e-5)


# PEFT's own merges, where it means the same


@pytest.mark.parametrize(
    ("combination", "method", "knobs"),
    [
        ("cat", "task_arithmetic", {}),
        ("svd", "task_arithmetic", {"rank": 2}),
        ("ties_svd", "ties", {"rank": 2, "density": 0.4}),
    ],
)
@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_an_adapter_is_that_of_pefts_add_weighted_adapter(
    combination, method, knobs, folders, tmp_path
):
    """Its `ties_svd` divides by how many agree, which is by their weights if these are 1."""
    weights = (1.0, 1.0) if method == "ties" else (0.7, 0.4)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folders["base"]), folders["maths"], "maths"
    )
    model.load_adapter(folders["words"], "words")
    rank, density = knobs.get("rank"), knobs.get("density")
    given = {"svd_rank": rank} if rank else {}
    given |= {"density": density} if density else {}
    model.add_weighted_adapter(["maths", "words"], list(weights), "out", combination, **given)
    model.set_adapter("out")
    each = {"density": Profile.of(density)} if density else {}
    sources = tuple(
        RecipeSource(name, {"weight": Profile.of(w), **each})
        for name, w in zip(("maths", "words"), weights, strict=True)
    )
    recipe, out = Recipe(method, sources, "base"), tmp_path / "out"
    merge_to_adapter(recipe, opened(folders, "maths", "words"), "base", out, TRAINED, rank=rank)
    close(by_peft(folders["base"], out), logits(model.eval()))


# What is no adapter


REFUSED = {
    "no sum": (weighted("ties", maths=1, code=1), "after ties: give --rank N"),
    "a fine-tune": (weighted(maths=1, chat=0.5), "after task_arithmetic: give --rank N"),
    "no change": (weighted(maths=0), "changes no matrix of its base"),
    "a scaled base": (
        Recipe(
            "linear",
            weighted("linear", maths=0.5, code=0.3).sources,
            knobs={"normalize": False},
        ),
        "weights that sum to 1",
    ),
    "other layers": (
        Recipe("passthrough", (RecipeSource("maths", {}),), slices=(Slice({"maths": (0, 1)}),)),
        "`slices` change the base's layers",
    ),
    "other tokens": (
        Recipe("linear", (RecipeSource("maths", {}),), vocabulary=Vocabulary("maths")),
        "`tokenizer` is not the base's",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_what_is_no_adapter_is_refused_by_name_and_leaves_nothing(name, folders, tmp_path):
    recipe, said = REFUSED[name]
    models = opened(folders, *(s.name for s in recipe.sources))
    with pytest.raises(PreflightError) as error:
        merge_to_adapter(recipe, models, "base", tmp_path / "out", TRAINED)
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_attention_of_a_mixture_is_adapted_and_changed_experts_are_refused(tmp_path):
    """The live model stacks the experts of a layer in one parameter."""
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
    )
    torch.manual_seed(0)
    base = save(MixtralForCausalLM(config), tmp_path / "base")
    lora = write_adapter(base, tmp_path / "lora", 1, r=2, target_modules=["q_proj"])
    tuned = save(perturb(MixtralForCausalLM.from_pretrained(base), 2), tmp_path / "chat")
    models = open_together({"base": base, "lora": lora, "chat": tuned}, "base")
    merge_to_folder(weighted(lora=0.5), models, tmp_path / "whole")
    merge_to_adapter(weighted(lora=0.5), models, "base", tmp_path / "out", TRAINED)
    close(by_peft(base, tmp_path / "out"), of_folder(tmp_path / "whole"))
    with pytest.raises(PreflightError, match="such as stacked experts"):
        merge_to_adapter(single("chat"), models, "base", tmp_path / "no", TRAINED, rank=4)


# The command


@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_the_command_writes_an_adapter_with_its_recipe_and_accuracy(folders, tmp_path, capsys):
    recipe = tmp_path / "pool.yaml"
    models = {name: str(folders[name]) for name in ("base", "maths", "code")}
    recipe.write_text(
        "recipe: 1\nmethod: linear\nsources: {maths: {weight: 1}, code: {weight: 1}}\n"
        f"models: {json.dumps(models)}\n"
    )
    out = tmp_path / "out"
    assert run("merge", str(recipe), "--out", str(out), "--adapter") == 0
    assert "exact but for rounding" in " ".join(capsys.readouterr().out.split())
    again = read_recipe(out / "recipe.yaml")
    assert again.recipe == read_recipe(recipe).recipe
    accuracy = json.loads((out / "accuracy.json").read_text())
    assert accuracy["modules"]["model.layers.0.self_attn.q_proj"] == {
        "rank": 6,
        "relative_error": 0.0,
    }
    small = tmp_path / "small"
    assert run("merge", str(recipe), "--out", str(small), "--adapter", "--rank", "2") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"modules of rank 2, relative error 0\.\d+ in all, at most 0\.\d+ \(", said)
    config = json.loads((small / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folders["base"])
    assert config["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rank", "2"], "add --adapter"),
        (["--adapter", "--rank", "0"], "expected a whole number from 1"),
        (["--adapter"], "none is named"),
    ],
)
@pytest.mark.parametrize("folders", ["llama"], indirect=True)
def test_options_that_make_no_adapter_are_refused(options, said, folders, tmp_path, capsys):
    recipe = tmp_path / "one.yaml"
    models = json.dumps({"chat": str(folders["chat"])})
    recipe.write_text(f"recipe: 1\nmethod: linear\nsources: {{chat: {{}}}}\nmodels: {models}\n")
    assert run("merge", str(recipe), "--out", str(tmp_path / "out"), *options) != 0
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_study_of_adapters_exports_adapters(tmp_path):
    """PEFT's model of the exported adapter has the exported model's logits."""
    write_zoo(tmp_path)
    write_adapter(tmp_path / "base", tmp_path / "second", 9, r=3, target_modules=["v_proj"])
    study = {
        "base": tmp_path / "base",
        "models": {"first": tmp_path / "adapter", "second": tmp_path / "second"},
        "include_path": tmp_path / "tasks",
        "tasks": ["choose"],
        "search": "lora_pool",
        "sampler": "random",
        "slopes": "off",
        "starts": 0,
        "budget": 7,
        "shortlist": 2,
        "export": "adapter",
        "out": tmp_path / "run",
    }
    automerge.search(study)
    arguments = ("export", str(tmp_path / "run"), "--trial", "6")
    written = contents(tmp_path / "run/adapters")
    assert written
    assert not (tmp_path / "run/models").exists()
    shutil.rmtree(tmp_path / "run/adapters")
    assert run("export", str(tmp_path / "run"), "--adapter", "--trial", "front") == 0
    assert contents(tmp_path / "run/adapters") == written
    shutil.rmtree(tmp_path / "run/adapters")
    automerge.search(study | {"adapter_rank": 1})
    assert contents(tmp_path / "run/adapters").keys() == {f"{name}-r1" for name in written}
    shutil.rmtree(tmp_path / "run/adapters")
    assert run(*arguments) == 0
    assert run(*arguments, "--adapter") == 0
    assert run(*arguments, "--adapter", "--rank", "1") == 0
    [model] = (tmp_path / "run/models").iterdir()
    adapters = tmp_path / "run/adapters"
    assert {p.name for p in adapters.iterdir()} == {model.name, f"{model.name}-r1"}
    close(by_peft(tmp_path / "base", adapters / model.name), of_folder(model))
    recipe = adapters / model.name / "recipe.yaml"
    assert run("merge", str(recipe), "--out", str(tmp_path / "again")) == 0
    close(of_folder(tmp_path / "again"), of_folder(model))


def contents(folder: Path) -> dict[str, bytes]:
    """The weights of each adapter in a folder."""
    return {p.name: (p / "adapter_model.safetensors").read_bytes() for p in folder.iterdir()}


def test_a_study_with_a_whole_source_exports_no_adapters(tmp_path):
    write_zoo(tmp_path)
    study = {
        "base": tmp_path / "base",
        "models": {"first": tmp_path / "adapter", "whole": tmp_path / "left"},
        "include_path": tmp_path / "tasks",
        "tasks": ["choose"],
        "export": "adapter",
        "out": tmp_path / "run",
    }
    with pytest.raises(PreflightError, match="'whole' is no adapter, and `export: adapter`"):
        automerge.search(study)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"adapter_rank": 8}, "add export: adapter, or remove it"),
        ({"export": "adapter", "search": {"layers": {"drop": 1}}}, "keeps its base's layers"),
    ],
)
def test_a_study_that_can_write_no_adapters_is_refused(more, said, tmp_path):
    plain = {"base": "org/base", "models": {"a": "org/a"}, "tasks": ["gsm8k"], "out": tmp_path}
    with pytest.raises(ConfigError, match=said):
        load_config(plain | more)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)
