"""Scales at the joints of slices: folded into weights, and in a stack that scales as it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf

from automerge.checkpoints import Fold, layout, open_checkpoint
from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.errors import ConfigError, PreflightError
from automerge.mergekit import mergekit_text
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.merging.layers import find_layers
from automerge.merging.slopes import TensorSlopes, moved
from automerge.merging.tensor import InvalidMerge, merge_tensor
from automerge.methods import METHODS
from automerge.recipe import Recipe, RecipeSource, Slice
from automerge.report.weights import layers_in_words
from automerge.session.preflight import check_scales, open_models, structure_faults
from automerge.testing import merges
from tests.checkpoints.models import tokenizer
from tests.merging.test_architectures import CONFIGS, auto

CAUSAL = [name for name in CONFIGS if not name.startswith("t5")]
SCALED = [name for name in CAUSAL if name != "olmo2"]
SPANS = ((0, 2), (0, 1), (1, 2))
SCALES = (2.0, 0.25, 4.0)
"""Powers of two: a float32 weight is divided by them without rounding."""
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
FIXED_EPSILON = ("olmo",)
"""1e-5, whatever the configuration says."""


def made(name: str, folder: Path, epsilon: float) -> Path:
    """A model of two layers whose branches and embeddings are of like size."""
    config = CONFIGS[name]()
    for key in EPSILONS:
        if hasattr(config, key):
            setattr(config, key, epsilon)
    torch.manual_seed(0)
    model = auto(config).from_config(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                size = 1.0 if "embed" in key or "wte" in key or "wpe" in key else 0.3
                parameter.normal_(0, size)
    model.save_pretrained(folder)
    return folder


def flow(scales: Sequence[float]) -> Recipe:
    pieces = (
        Slice({"base": span}, input_scale=scale) for span, scale in zip(SPANS, scales, strict=True)
    )
    return Recipe("passthrough", (RecipeSource("base", {}),), slices=tuple(pieces))


def load(folder: Path):
    config = hf.AutoConfig.from_pretrained(folder, experts_implementation="eager")
    return hf.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float64)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6)).logits


def naive(folder: Path, scales: Sequence[float]) -> torch.Tensor:
    """The same stack, which multiplies the hidden state as it enters a slice's first layer."""
    model = load(folder)
    _, layers = find_layers(model, 4)
    for first, scale in zip((0, 2, 3), scales, strict=True):

        def multiply(_, given, named, scale=scale):
            if given:
                return (scale * given[0], *given[1:]), named
            return given, {**named, "hidden_states": scale * named["hidden_states"]}

        layers[first].register_forward_pre_hook(multiply, with_kwargs=True)
    return logits(model)


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", SCALED)
def test_folded_scales_give_the_logits_of_a_stack_that_scales_as_it_runs(name, tmp_path):
    folder = made(name, tmp_path / "base", 1e-12)
    checkpoints = {"base": open_checkpoint(folder)}
    merge_to_folder(flow((1.0,) * 3), checkpoints, tmp_path / "plain")
    merge_to_folder(flow(SCALES), checkpoints, tmp_path / "scaled")
    wanted, found = naive(tmp_path / "plain", SCALES), logits(load(tmp_path / "scaled"))
    # float32's rounding of norms that multiply by 1 + w, and ε = 1e-5 where it cannot be changed
    assert far(found, wanted) < (1e-3 if name in FIXED_EPSILON else 1e-6)
    assert far(logits(load(tmp_path / "plain")), wanted) > 0.05
    live = load(folder)
    ResidentEngine(checkpoints).merge_into(live, flow(SCALES))
    assert torch.equal(logits(live), found)


def test_what_is_left_is_proportional_to_epsilon(tmp_path):
    errors = []
    for epsilon in (1e-4, 1e-5):
        folder = made("llama", tmp_path / f"{epsilon}", epsilon)
        checkpoints = {"base": open_checkpoint(folder)}
        out = tmp_path / f"{epsilon} out"
        merge_to_folder(flow((1.0,) * 3), checkpoints, out / "plain")
        merge_to_folder(flow(SCALES), checkpoints, out / "scaled")
        errors.append(far(logits(load(out / "scaled")), naive(out / "plain", SCALES)))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_scales_of_later_slices_reach_a_live_model(tmp_path):
    """A model that holds the same layers with other scales is merged anew where they matter."""
    folder = made("llama", tmp_path / "base", 1e-12)
    engine, live = ResidentEngine({"base": open_checkpoint(folder)}), load(folder)
    engine.merge_into(live, flow((1.0, 1.0, 1.0)))
    before = logits(live)
    assert engine.merge_into(live, flow((1.0, 1.0, 2.0))).n_written == 2
    assert far(logits(live), before) > 0.01
    assert engine.merge_into(live, flow((1.0, 1.0, 1.0))).n_written == 2
    assert torch.equal(logits(live), before)


def test_slopes_are_those_of_the_scaled_tensor():
    """Central differences in double precision of a tensor that is divided by 4."""
    method = METHODS["task_arithmetic"]
    base, *sources = merges.tensors(merges.count(method), dtype=torch.float64)
    recipe = merges.recipe(method)
    space = merges.workspace(recipe, base, *sources)
    whole = replace(merges.step(method, recipe, base), fold=Fold(0.25, 1.0))
    gradient = torch.ones_like(base)
    slopes = TensorSlopes(whole, space)
    h = 2.0**-10
    for knob, slope in zip(slopes.knobs, slopes.contract(gradient), strict=True):
        above, below = (
            merge_tensor(replace(whole, values=moved(whole.values, knob, by)), space)
            for by in (h, -h)
        )
        wanted = float(((above - below) * gradient).sum()) / (2 * h)
        assert slope == pytest.approx(wanted, rel=1e-6)


def test_architectures_without_a_norm_before_each_branch_are_refused_by_name(tmp_path):
    folder = made("olmo2", tmp_path / "base", 1e-6)
    checkpoints = {"base": open_checkpoint(folder)}
    with pytest.raises(PreflightError, match=r"olmo2 is not known to have such layers .*llama"):
        merge_to_folder(flow(SCALES), checkpoints, tmp_path / "out")
    merge_to_folder(flow((1.0,) * 3), checkpoints, tmp_path / "out")


def test_a_study_refuses_scales_before_it_reads_a_weight(tmp_path):
    for name, refused in (("olmo2", True), ("llama", False)):
        folder = made(name, tmp_path / name, 1e-6)
        tokenizer().save_pretrained(folder)
        models = open_models({"base": str(folder)}, "base", lambda _: None)
        assert bool(structure_faults([flow(SCALES)], models, lambda _: None)) == refused
        if refused:
            with pytest.raises(PreflightError, match="remove input_scale"):
                check_scales(models, lambda _: None)
        else:
            check_scales(models, lambda _: None)


def test_mergekit_and_the_report_say_scales(tmp_path):
    checkpoint = open_checkpoint(made("llama", tmp_path / "base", 1e-6))
    recipe = flow(SCALES)
    targets = layout(recipe, {"base": checkpoint.tensors})
    text = mergekit_text(recipe, {"base": "org/base"}, [target.place for target in targets])
    assert "mergekit has no `input_scale` of slices (here 2, 0.25, 4)" in " ".join(
        line.removeprefix("# ") for line in text.splitlines()
    )
    assert (
        layers_in_words(recipe) == "0 to 1 (input × 2), 0 to 0 (input × 0.25), 1 to 1 (input × 4)"
    )


def test_a_half_precision_weight_that_overflows_makes_the_merge_invalid(tmp_path):
    folder = made("llama", tmp_path / "base", 1e-6)
    hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    checkpoints = {"base": open_checkpoint(folder)}
    with pytest.raises(InvalidMerge, match="down_proj"):
        merge_to_folder(flow((1e-5, 1.0, 1.0)), checkpoints, tmp_path / "out")


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_only_positive_scales_can_be_folded(scale, tmp_path):
    checkpoints = {"base": open_checkpoint(made("llama", tmp_path / "base", 1e-6))}
    message = f"slice 2: input_scale: expected a number above 0, got {scale:g}"
    with pytest.raises(ConfigError, match=message):
        merge_to_folder(flow((1.0, scale, 1.0)), checkpoints, tmp_path / "out")


FILE = """\
method: passthrough
models: {base: org/base}
sources:
  base: {}
slices:
  - layers: {base: [0, 8]}
  - layers: {base: [6, 12]}
    input_scale: SCALE
"""


def test_a_recipe_file_says_scales_and_is_read_back(tmp_path):
    path = tmp_path / "flow.yaml"
    path.write_text(FILE.replace("SCALE", "0.75"))
    read = read_recipe(path)
    assert [piece.input_scale for piece in read.recipe.slices] == [1.0, 0.75]
    path.write_text(recipe_text(read.recipe, read.models))
    assert read_recipe(path).recipe == read.recipe
    assert Recipe.from_plain(read.recipe.plain()) == read.recipe


@pytest.mark.parametrize("text", ["-2", "0", "true", "wide"])
def test_a_scale_that_is_no_positive_number_is_refused_where_it_is_written(text, tmp_path):
    path = tmp_path / "flow.yaml"
    path.write_text(FILE.replace("SCALE", text))
    with pytest.raises(ConfigError, match=r"expected a number above 0, got") as caught:
        read_recipe(path)
    assert caught.value.faults[0].location.line == 8
