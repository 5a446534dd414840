"""REPAIR: after it, units have the sources' means and deviations, in live models and on disk."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from automerge.checkpoints import open_checkpoint
from automerge.errors import ConfigError, PreflightError
from automerge.evidence import MemoryEvidence
from automerge.evidence.activations import first_pieces, gather_activations
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.merging.calibration import correction, interpolated
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.evaluation.toys import make_model, make_tokenizer

PIECES = [[5, 9, 33, 21, 7, 60, 2, 11], [40, 41, 8, 8, 19], [70, 3, 12, 30, 31, 32, 33, 34]]
WEIGHTS = {"left": 0.6, "right": 0.2}
NAMES = ("base", *WEIGHTS)


def perturbed(kind: str, seed: int) -> PreTrainedModel:
    model = make_model(kind, 0).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator) * bool(seed)
    return model


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def zoo(request, tmp_path_factory):
    """Models of one kind on disk, and their activations; llama has no biases."""
    root = tmp_path_factory.mktemp(request.param)
    models, evidence = {}, {}
    for seed, name in enumerate(NAMES):
        models[name] = perturbed(request.param, seed)
        models[name].save_pretrained(root / name)
        make_tokenizer().save_pretrained(root / name)
        found = gather_activations(models[name], dict(models[name].named_parameters()), PIECES)
        evidence[name] = MemoryEvidence("activations", name, found, PIECES)
    checkpoints = {name: open_checkpoint(root / name) for name in NAMES}
    return models, checkpoints, evidence


def recipe(repair: float = 1.0, method: str = "task_arithmetic") -> Recipe:
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in WEIGHTS.items())
    digests = {"activations": {name: name for name in WEIGHTS}}
    return Recipe(method, sources, "base", evidence=digests, repair=repair)


def repaired(zoo, repair: float = 1.0):
    models, checkpoints, evidence = zoo
    live, engine = copy.deepcopy(models["base"]), ResidentEngine(checkpoints, evidence=evidence)
    engine.merge_into(live, recipe(repair))
    return live, engine


def rows(model: PreTrainedModel, layer: nn.Module) -> Tensor:
    """What a layer puts out, sequence by sequence without padding, in float64."""
    seen = []
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output[0].double()))
    with torch.no_grad():
        for piece in PIECES:
            model(input_ids=torch.tensor([piece]))
    handle.remove()
    return torch.cat(seen)


def layers(model: PreTrainedModel) -> Mapping[str, nn.Module]:
    """All linear layers but the head, in the order in which they compute."""
    found: list[str] = []
    kinds = (nn.Linear, Conv1D)
    names = {m: n for n, m in model.named_modules() if isinstance(m, kinds) and n != "lm_head"}
    handles = [m.register_forward_hook(lambda m, _, __: found.append(names[m])) for m in names]
    with torch.no_grad():
        model(input_ids=torch.tensor([PIECES[0]]))
    for handle in handles:
        handle.remove()
    return {name: model.get_submodule(name) for name in found}


def across(layer: nn.Module, units: Tensor) -> Tensor:
    """Numbers of a layer's units, beside its weight: GPT-2's weights are (inputs, outputs)."""
    return units if isinstance(layer, Conv1D) else units[:, None]


def wanted(models, name: str) -> tuple[Tensor, Tensor]:
    """The sources' means and deviations there, by their weights as shares."""
    shares = {n: w / sum(WEIGHTS.values()) for n, w in WEIGHTS.items()}
    outputs = {n: rows(models[n], models[n].get_submodule(name)) for n in WEIGHTS}
    mean = sum(share * outputs[n].mean(0) for n, share in shares.items())
    deviation = sum(share * outputs[n].std(0, correction=0) for n, share in shares.items())
    return mean, deviation


def test_activations_are_those_of_every_sequence_by_itself(zoo):
    models, _, evidence = zoo
    model, found = models["left"], evidence["left"].tensors
    assert {f"{name}.weight" for name in layers(model)} == set(found)
    for name, layer in layers(model).items():
        own = rows(model, layer)
        expected = torch.stack([own.mean(0), own.std(0, correction=0)])
        torch.testing.assert_close(found[f"{name}.weight"].double(), expected, rtol=1e-4, atol=1e-5)


def test_after_it_every_unit_of_the_stack_has_the_interpolated_deviation_and_with_a_bias_mean(zoo):
    models, *_ = zoo
    live, _ = repaired(zoo)
    plain, _ = repaired(zoo, 0.0)
    moved = 0.0
    for name, layer in layers(live).items():
        mean, deviation = wanted(models, name)
        own = rows(live, layer)
        torch.testing.assert_close(own.std(0, correction=0), deviation, rtol=2e-4, atol=1e-5)
        if layer.bias is not None:
            torch.testing.assert_close(own.mean(0), mean, rtol=2e-4, atol=2e-4)
        before = rows(plain, plain.get_submodule(name)).std(0, correction=0)
        moved = max(moved, float((before / deviation - 1).abs().max()))
    assert moved > 0.1


def test_it_is_what_hooks_give_that_repair_layer_after_layer_by_whole_passes(zoo):
    models, *_ = zoo
    live, _ = repaired(zoo)
    naive, _ = repaired(zoo, 0.0)
    for name, layer in layers(naive).items():
        mean, deviation = wanted(models, name)
        own = rows(naive, layer)
        ratio = deviation / own.std(0, correction=0)
        with torch.no_grad():
            layer.weight.copy_(layer.weight.double() * across(layer, ratio))
            if layer.bias is not None:
                layer.bias.copy_(layer.bias.double() * ratio + mean - ratio * own.mean(0))
    for (name, one), other in zip(naive.named_parameters(), live.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=5e-4, atol=1e-5, msg=name)


def test_a_strength_moves_outputs_in_proportion():
    found, to = torch.tensor([[1.0, 2.0], [2.0, 0.0]]), torch.tensor([[3.0, 5.0], [3.0, 7.0]])
    y = torch.tensor([[4.0, 2.0]])
    for strength in (0.0, 0.25, 1.0):
        scale, shift = correction(found, to, strength)
        # 3 + (4 − 1) · 1.5 = 7.5; a unit that never varies is only moved: 5 + (2 − 2) = 5.
        expected = (1 - strength) * y + strength * torch.tensor([[7.5, 5.0]])
        torch.testing.assert_close(y * scale + shift, expected)


def test_weights_below_zero_do_not_count_and_without_any_all_count_the_same():
    each = [torch.full((2, 1), value) for value in (1.0, 2.0, 6.0)]
    assert interpolated(each, (1.0, 3.0, -1.0)).tolist() == [[1.75], [1.75]]
    assert interpolated(each, (0.0, 0.0, -1.0)).tolist() == [[3.0], [3.0]]


def test_the_next_merge_starts_from_the_stored_models(zoo):
    live, engine = repaired(zoo)
    first = {n: p.clone() for n, p in live.named_parameters()}
    engine.merge_into(live, recipe(0.0))
    plain, _ = repaired(zoo, 0.0)
    pairs = zip(live.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    engine.merge_into(live, recipe())
    assert all(torch.equal(p, first[n]) for n, p in live.named_parameters())
    assert not all(
        torch.equal(one, other)
        for one, other in zip(live.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_exported_folder_has_the_live_models_bits(zoo, dtype, tmp_path):
    models, checkpoints, evidence = zoo
    made = replace(recipe(0.7), dtype=dtype)
    live, engine = copy.deepcopy(models["base"]), ResidentEngine(checkpoints, evidence=evidence)
    engine.merge_into(live, made)
    scored = engine.weights(live, made)
    written = merge_to_folder(made, checkpoints, tmp_path / "out", evidence=evidence, scored=scored)
    loaded = AutoModelForCausalLM.from_pretrained(written.path, dtype=torch.float32)
    for (name, one), other in zip(live.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_slopes_are_those_of_a_merge_whose_scales_and_shifts_are_held(zoo):
    models, checkpoints, evidence = zoo
    live, engine = repaired(zoo)
    plain, _ = repaired(zoo, 0.0)

    def loss(model: PreTrainedModel) -> Tensor:
        ids = torch.tensor([PIECES[0]])
        return model(input_ids=ids, labels=ids).loss

    def held(weight: float) -> float:
        left = RecipeSource("left", {"weight": Profile.of(weight)})
        moved = copy.deepcopy(models["base"])
        other = ResidentEngine(checkpoints, evidence=evidence)
        other.merge_into(moved, replace(recipe(0.0), sources=(left, recipe().sources[1])))
        moved.double()
        for name, layer in layers(plain).items():
            to, now = live.get_submodule(name), moved.get_submodule(name)
            inputs = 0 if isinstance(layer, Conv1D) else 1
            both, own = (to.weight * layer.weight).double(), layer.weight.double().square()
            scale = both.sum(inputs) / own.sum(inputs)
            now.weight.mul_(across(layer, scale))
            if now.bias is not None:
                now.bias.mul_(scale).add_(to.bias.double() - scale * layer.bias.double())
        return float(loss(moved))

    with engine.contraction(live, recipe()) as contraction:
        found = contraction.slopes(loss(live))
    [slope] = [value for at, value in found.items() if at.source == "left"]
    with torch.no_grad():
        expected = (held(WEIGHTS["left"] + 1e-3) - held(WEIGHTS["left"] - 1e-3)) / 2e-3
    assert slope == pytest.approx(expected, rel=2e-3)


def test_what_cannot_be_calibrated_is_refused_with_what_to_do(zoo, tmp_path):
    models, checkpoints, evidence = zoo
    live = copy.deepcopy(models["base"])
    engine = ResidentEngine(checkpoints, evidence=evidence)
    with pytest.raises(ConfigError, match="repair needs evidence of the kind activations from rig"):
        engine.merge_into(live, replace(recipe(), evidence={"activations": {"left": "left"}}))
    with pytest.raises(ConfigError, match=r"repair must lie in \[0, 1\]; got 1.5"):
        engine.merge_into(live, recipe(1.5))
    other = {**evidence, "right": replace(evidence["right"], pieces=PIECES[:1])}
    with pytest.raises(PreflightError, match="evidence of all sources on the same text"):
        ResidentEngine(checkpoints, evidence=other).merge_into(live, recipe())


def test_a_recipe_of_a_model_whose_layers_have_no_evidence_is_refused(tmp_path: Path):
    model = make_model("gpt2", 0)
    model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "left")
    checkpoints = {name: open_checkpoint(tmp_path / name) for name in ("base", "left")}
    nothing = {"left": MemoryEvidence("activations", "left", {}, PIECES)}
    made = replace(recipe(), sources=recipe().sources[:1])
    with pytest.raises(PreflightError, match="GPT2LMHeadModel has no linear layers with evidence"):
        ResidentEngine(checkpoints, evidence=nothing).merge_into(model, made)


def test_only_the_first_tokens_are_used():
    assert first_pieces([[1, 2, 3], [4, 5], [6]], 4) == [[1, 2, 3], [4]]
