"""An IA³ adapter gives the model PEFT makes of it, bit for bit, or is refused for what it is."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from automerge.checkpoints import open_checkpoint, open_together
from automerge.checkpoints.adapters.options import IA3_OPTIONS
from automerge.checkpoints.adapters.write import Trained as Base
from automerge.cli import main
from automerge.errors import PreflightError
from automerge.mergekit import mergekit_text
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.merging.adapter import merge_to_adapter
from automerge.recipe import Profile, Recipe, RecipeSource, single
from automerge.session.preflight import Models, check_adapters
from tests.checkpoints.adapters import TOKENS, Trained, edit, logits, opened
from tests.checkpoints.models import gpt2, llama, perturb, save, tokenizer

WEIGHTS = "adapter_model.safetensors"
FOLD = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
HEAD = FOLD | {"target_modules": [*FOLD["target_modules"], "lm_head"]}


def qwen2() -> Qwen2ForCausalLM:
    """Queries, keys and values have biases."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Qwen2ForCausalLM(config)


def tied() -> torch.nn.Module:
    return llama(tied=True)


def train(root: Path, build=llama, dtype=torch.float32, seed=1, **config) -> Trained:
    """Save a base, and an IA³ adapter over it with random vectors around 1."""
    torch.manual_seed(0)
    base = save(perturb(build().to(dtype), 3, 0.2), root / "base")
    folder = root / f"ia3-{seed}"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        settings = IA3Config(task_type="CAUSAL_LM", **(FOLD | config))
        wrapped = get_peft_model(opened(base, dtype), settings)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_((torch.randn(parameter.shape) * 0.3).to(parameter.dtype))
        wrapped.save_pretrained(folder)
        return Trained(base, folder, logits(PeftModel.from_pretrained(opened(base, dtype), folder)))


def peft_merge(trained: Trained, dtype=torch.float32) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(opened(trained.base, dtype), trained.folder)
        return model.merge_and_unload().state_dict()


CASES = {
    "llama": {},
    "llama in bfloat16": {"dtype": torch.bfloat16},
    "llama in float64": {"dtype": torch.float64},
    "biases of qwen2": {"build": qwen2},
    "biases of qwen2 in bfloat16": {"build": qwen2, "dtype": torch.bfloat16},
    "every matrix over its inputs": {
        "target_modules": ["q_proj", "o_proj", "down_proj"],
        "feedforward_modules": ["q_proj", "o_proj", "down_proj"],
    },
    "square matrices over their outputs": {
        "build": lambda: llama(attention_bias=True),
        "target_modules": ["q_proj", "o_proj"],
        "feedforward_modules": [],
    },
    "gpt2, stored transposed": {
        "build": gpt2,
        "target_modules": ["c_attn", "mlp.c_proj"],
        "feedforward_modules": ["mlp.c_proj"],
        "fan_in_fan_out": True,
    },
    "gpt2's square matrix": {
        "build": gpt2,
        "target_modules": ["attn.c_proj"],
        "feedforward_modules": ["attn.c_proj"],
    },
    "a head": HEAD,
    "modules saved whole": {"modules_to_save": ["lm_head", "norm"]},
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_the_one_peft_merges(case, tmp_path):
    config = CASES[case]
    dtype = config.get("dtype", torch.float32)
    trained = train(tmp_path, **config)
    checkpoints = open_together({"base": trained.base, "ia3": trained.folder}, "base")
    expected = peft_merge(trained, dtype)
    changed = 0
    for name in checkpoints["base"].tensors:
        ours = checkpoints["ia3"].read(name)
        assert ours.dtype == dtype
        assert torch.equal(ours, expected[name]), name
        changed += not torch.equal(ours, checkpoints["base"].read(name))
    assert changed >= 2


@pytest.mark.parametrize("build", [llama, qwen2, tied], ids=lambda build: build.__name__)
def test_the_exported_model_has_the_logits_of_pefts(build, tmp_path):
    """With a head of its own where the base's is tied, as it was in training."""
    config = HEAD if build is tied else FOLD
    trained = train(tmp_path, build, **config)
    checkpoints = open_together({"base": trained.base, "ia3": trained.folder}, "base")
    merge_to_folder(single("ia3"), checkpoints, tmp_path / "out")
    ours = logits(opened(tmp_path / "out"))
    assert (ours - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()
    assert (logits(opened(trained.base)) - trained.logits).abs().max() > 1e-3


def test_every_option_of_peft_is_known():
    assert {field.name for field in dataclasses.fields(IA3Config)} == set(IA3_OPTIONS)


def without_axes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.flatten() for name, tensor in tensors.items()}


def turned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.T.contiguous() for name, tensor in tensors.items()}


def elsewhere(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}


def on_a_norm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"base_model.model.model.norm.ia3_l": torch.ones(16, 1)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_axes, r"shape \(8,\); expected \(8, 1\) to scale its outputs or \(1, 16\)"),
        (turned, r"its vector has shape \(1, 8\)"),
        (elsewhere, "is not in the base: is it another model's adapter"),
        (on_a_norm, "only matrices are scaled"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, Callable) else "",
)
def test_vectors_that_do_not_fit_are_refused(change, said, tmp_path):
    trained = train(tmp_path)
    save_file(change(load_file(trained.folder / WEIGHTS)), trained.folder / WEIGHTS)
    with pytest.raises(PreflightError, match=said):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


def test_a_configuration_of_another_kind_of_adapter_is_refused(tmp_path):
    trained = train(tmp_path)
    (trained.folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 4}'
    )
    with pytest.raises(PreflightError, match="is a tensor of IA3, but peft_type in"):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


def test_an_unknown_option_is_refused(tmp_path):
    trained = train(tmp_path)
    edit(trained.folder, gates=[1])
    with pytest.raises(PreflightError, match="'gates' is not supported"):
        open_checkpoint(trained.folder, open_checkpoint(trained.base))


@pytest.mark.parametrize("build", [llama, qwen2], ids=lambda build: build.__name__)
def test_negation_and_addition_are_those_of_the_vectors(build, tmp_path):
    """Zhang et al. 2023 (arXiv:2306.14870) negate l to 2 - l, and average vectors of two tasks."""
    one, other = train(tmp_path, build), train(tmp_path, build, seed=2)
    paths = {"base": one.base, "one": one.folder, "other": other.folder}
    checkpoints = open_together(paths, "base")
    vectors = [load_file(trained.folder / WEIGHTS) for trained in (one, other)]

    def change(key: str, vector: Callable) -> torch.Tensor:
        return vector(*(v[key].double() for v in vectors))

    for weights, vector in (
        ({"one": -1.0}, lambda one, _: 2 - one),
        ({"one": 0.25, "other": 0.75}, lambda one, other: 0.25 * one + 0.75 * other),
    ):
        sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items())
        out = tmp_path / "-".join(["out", *weights])
        merge_to_folder(Recipe("task_arithmetic", sources, base="base"), checkpoints, out)
        merged = load_file(out / "model.safetensors")
        for name, value in merged.items():
            base = checkpoints["base"].read(name).double()
            module, leaf = name.rsplit(".", 1)
            key = f"base_model.model.{module}.ia3_l"
            scale = torch.ones(1, dtype=torch.float64)
            if key in vectors[0]:
                scale = change(key, vector)
            if leaf == "bias":
                scale = scale.flatten()
            # A few roundings to float32, of numbers of a size of at most 8 times the base's.
            torch.testing.assert_close(value.double(), base * scale, rtol=1e-5, atol=1e-6)


def test_as_an_adapter_it_is_written_to_a_rank_or_refused(tmp_path):
    trained = train(tmp_path, qwen2)
    checkpoints = open_together({"base": trained.base, "ia3": trained.folder}, "base")
    source = RecipeSource("ia3", {"weight": Profile.of(1.0)})
    recipe = Recipe("task_arithmetic", (source,), base="base")
    meant = Base(str(trained.base), task="CAUSAL_LM")
    with pytest.raises(PreflightError, match="give --rank N"):
        merge_to_adapter(recipe, checkpoints, "base", tmp_path / "exact", meant)
    found = merge_to_adapter(recipe, checkpoints, "base", tmp_path / "full", meant, rank=16)
    assert found.relative_error < 1e-6
    model = PeftModel.from_pretrained(opened(trained.base), tmp_path / "full")
    assert (logits(model) - trained.logits).abs().max() < 2e-5 * trained.logits.abs().max()


def test_a_study_exports_it_as_an_adapter_only_to_a_rank(tmp_path):
    trained = train(tmp_path)
    checkpoints = open_together({"base": trained.base, "ia3": trained.folder}, "base")
    models = Models("base", {}, checkpoints, ())
    check_adapters(models, ["ia3"], 8, lambda _: None)
    with pytest.raises(PreflightError, match="'ia3' is an IA³ adapter, which is not a sum"):
        check_adapters(models, ["ia3"], None, lambda _: None)


def test_slopes_of_its_weight_are_central_differences(tmp_path):
    """Of a GPT-2, which computes in the dtype of its weights throughout."""
    case = CASES["gpt2, stored transposed"]
    trained = train(tmp_path, dtype=torch.float64, **case)
    engine = ResidentEngine(open_together({"base": trained.base, "ia3": trained.folder}, "base"))
    model = opened(trained.base, torch.float64).requires_grad_(False)

    def made(weight: float) -> Recipe:
        return Recipe(
            "task_arithmetic",
            (RecipeSource("ia3", {"weight": Profile.of(weight)}),),
            base="base",
        )

    def loss() -> torch.Tensor:
        found = model(TOKENS).logits[:, :-1].log_softmax(-1)
        return -found.gather(-1, TOKENS[:, 1:, None]).sum()

    def at(weight: float) -> float:
        engine.merge_into(model, made(weight))
        return float(loss())

    step = 1e-4
    expected = (at(0.5 + step) - at(0.5 - step)) / (2 * step)
    engine.merge_into(model, made(0.5))
    with engine.contraction(model, made(0.5)) as contraction:
        [slope] = contraction.slopes(loss()).values()
    assert abs(expected) > 1e-3
    assert slope == pytest.approx(expected, rel=1e-5)


def test_mergekits_file_says_that_it_has_no_such_adapters():
    recipe = Recipe("task_arithmetic", (RecipeSource("ia3", {}),), base="base")
    said = mergekit_text(recipe, {"base": "org/base", "ia3": "org/ia3"}, [], {"ia3": "IA³"})
    assert "mergekit adds no adapters but LoRA, and ia3 is of another kind" in said


def test_inspect_names_it(tmp_path, capsys):
    trained = train(tmp_path)
    tokenizer().save_pretrained(trained.base)
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(trained.base), f"scaled={trained.folder}"])
    assert "scaled (IA³)" in capsys.readouterr().out
