"""Slopes of a live model's loss are the central differences of merging and running it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

from automerge.checkpoints import Checkpoint, open_checkpoint, open_together
from automerge.checkpoints.noise import noise_folder
from automerge.files.noise import Noise
from automerge.merging import ResidentEngine
from automerge.mixture import Mixture
from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource, Slice, single
from tests.checkpoints.models import llama, perturb, save
from tests.merging.test_architectures import CONFIGS

KINDS = ("llama tied", "gpt2", "qwen3 moe", "gemma2")
SINGLE = ("qwen3 moe",)
"""Whose kernels take no double precision."""
TOKENS = torch.arange(3, 27).reshape(2, 12)
STEP = 1e-5
"""The last digit of a recipe's numbers; few of an election's signs change within it."""


def architecture(kind: str, root) -> tuple[hf.PreTrainedModel, Mapping[str, Checkpoint]]:
    dtype = torch.float32 if kind in SINGLE else torch.float64
    saved = {}
    for seed, name in enumerate(("base", "left", "right")):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(CONFIGS[kind]()).to(dtype)
        if seed:
            perturb(model, seed, 0.1)
        model.save_pretrained(root / name)
        saved[name] = open_checkpoint(root / name)
    live = hf.AutoModelForCausalLM.from_pretrained(root / "base", dtype=dtype)
    return live.eval().requires_grad_(False), saved


def adapters(root) -> tuple[hf.PreTrainedModel, Mapping[str, Checkpoint]]:
    torch.manual_seed(0)
    paths = {"base": save(llama().double(), root / "base")}
    for seed, name in enumerate(("left", "right")):
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_pretrained(paths["base"], dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear"))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter += 0.2 * torch.randn_like(parameter)
        wrapped.save_pretrained(root / name)
        paths[name] = root / name
    live = hf.AutoModelForCausalLM.from_pretrained(paths["base"], dtype=torch.float64)
    return live.eval().requires_grad_(False), open_together(paths, "base")


def recipe(method: str) -> Recipe:
    weights = (
        {"mlp": [0.3, 0.7, 0.4], "attention": 0.6, "default": [0.5, 0.2]},
        {"*norm*": 0.1, "mlp": 0.25, "default": [0.45, 0.35]},
    )
    extra = {"density": Profile.of(0.5)} if method == "ties" else {}
    return Recipe(
        method,
        tuple(
            RecipeSource(name, {"weight": Profile.of(weight), **extra})
            for name, weight in zip(("left", "right"), weights, strict=True)
        ),
        base="base",
        knobs={"lambda": Profile.of({"mlp": [0.9, 1.1], "default": 0.8})},
    )


def loss(model: hf.PreTrainedModel) -> torch.Tensor:
    logits = model(input_ids=TOKENS, use_cache=False).logits[:, :-1].log_softmax(-1)
    return -logits.gather(-1, TOKENS[:, 1:, None]).sum()


def shifted(made: Recipe, coordinate: Coordinate, by: float) -> Recipe:
    """The recipe with one of its numbers moved, by way of its plain form."""

    def profile(known: Profile) -> Profile:
        parts = [
            (s, tuple(k + by * (s == coordinate.selector and i == coordinate.knot)
                      for i, k in enumerate(knots)))
            for s, knots in known.parts
        ]  # fmt: skip
        return Profile(tuple(parts))

    if coordinate.part is not None:
        piece = made.slices[coordinate.part]
        sources, knobs = dict(piece.sources), dict(piece.knobs)
        if coordinate.source is None:
            knobs[coordinate.knob] = profile(knobs[coordinate.knob])
        else:
            own = sources[coordinate.source]
            moved = {coordinate.knob: profile(own[coordinate.knob])}
            sources[coordinate.source] = {**own, **moved}
        slices = list(made.slices)
        slices[coordinate.part] = Slice(piece.layers, sources, knobs)
        return dataclasses.replace(made, slices=tuple(slices))
    if coordinate.source is None:
        knobs = {**made.knobs, coordinate.knob: profile(made.knobs[coordinate.knob])}
        return dataclasses.replace(made, knobs=knobs)
    sources = tuple(
        RecipeSource(s.name, {**s.knobs, coordinate.knob: profile(s.knobs[coordinate.knob])})
        if s.name == coordinate.source
        else s
        for s in made.sources
    )
    return dataclasses.replace(made, sources=sources)


def difference(engine, model, made: Recipe, coordinate: Coordinate, step: float = STEP) -> float:
    ends = []
    for by in (-step, step):
        engine.merge_into(model, shifted(made, coordinate, by))
        with torch.no_grad():
            ends.append(loss(model).item())
    return (ends[1] - ends[0]) / (2 * step)


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_slopes_are_central_differences_of_the_whole_way(method, tmp_path):
    model, checkpoints = architecture("gpt2", tmp_path)
    engine, made = ResidentEngine(checkpoints), recipe(method)
    engine.merge_into(model, made)
    with engine.contraction(model, made) as contraction:
        found = contraction.slopes(loss(model))
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert {c.knob for c in found} == {"weight", "lambda"}
    assert set(found) <= set(contraction.coordinates) <= set(made.coordinates)
    for coordinate, slope in found.items():
        expected = difference(engine, model, made, coordinate)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5), coordinate


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["llama tied", "qwen2"])
def test_slopes_of_a_mixture_are_central_differences(kind, tmp_path):
    """Of what is merged, in layers with experts of their own and in others; routes do not change.

    The second layer has the merge for all experts, where slopes are of all copies together; a
    Qwen2-MoE has a shared expert besides, which is half of the merge.
    """
    model, checkpoints = architecture(kind, tmp_path)
    # The kernels of experts take no double precision.
    model, engine = model.float(), ResidentEngine(checkpoints)
    mixture = Mixture(("left", "right", "base"), 2, "random", (0, 1))
    made = dataclasses.replace(recipe("task_arithmetic"), mixture=mixture)
    engine.merge_into(model, made)
    with engine.contraction(model, made) as contraction:
        found = contraction.slopes(loss(model))
    assert {c.knob for c in found} == {"weight", "lambda"}
    largest = max(map(abs, found.values()))
    for coordinate, slope in found.items():
        expected = difference(engine, model, made, coordinate, 1e-3)
        # float32: losses of about 100 are known to 1e-5, differences over 2e-3 to 1e-2.
        assert slope == pytest.approx(expected, rel=2e-2, abs=2e-2 * largest), coordinate


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", [*KINDS, "adapters"])
def test_one_weight_per_source_has_the_slope_of_the_whole_task_vector(kind, tmp_path):
    model, checkpoints = adapters(tmp_path) if kind == "adapters" else architecture(kind, tmp_path)
    engine = ResidentEngine(checkpoints)
    states = {}
    for name in ("base", "left", "right"):
        engine.merge_into(model, single(name))
        states[name] = {k: v.detach().clone() for k, v in model.state_dict().items()}
    weights = {"left": 0.4, "right": 0.3}
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items())
    made = Recipe("task_arithmetic", sources, base="base")
    engine.merge_into(model, made)
    with engine.contraction(model, made) as contraction:
        found = contraction.slopes(loss(model))
    model.requires_grad_(True)
    loss(model).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name in weights:
        expected = sum(
            (g * (states[name][key] - states["base"][key])).sum().item()
            for key, g in gradients.items()
        )
        slope = found[Coordinate(name, "weight", "default", 0)]
        assert slope == pytest.approx(expected, rel=1e-3 if kind in SINGLE else 1e-9)


def test_slopes_of_groups_with_methods_of_their_own_are_central_differences(tmp_path):
    model, checkpoints = architecture("gpt2", tmp_path)
    engine = ResidentEngine(checkpoints)
    made = dataclasses.replace(
        recipe("ties"),
        methods=(("attention", "task_arithmetic"), ("depth<0.4", "linear")),
        knobs={"lambda": Profile.of({"attention": 0.7, "default": [0.9, 1.1]}), "normalize": False},
    )
    engine.merge_into(model, made)
    with engine.contraction(model, made) as contraction:
        found = contraction.slopes(loss(model))
    assert {c.selector for c in found} == {"attention", "mlp", "default"}
    for coordinate, slope in found.items():
        expected = difference(engine, model, made, coordinate)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5), coordinate


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear"])
def test_slopes_of_low_rank_noise_are_central_differences(method, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, saved = architecture("gpt2", tmp_path)
    noise = noise_folder(Noise.parse("noise:rank=8,seed=3,scale=0.05"), saved["base"])
    paths = {"base": tmp_path / "base", "left": tmp_path / "left", "noise": noise.path}
    engine = ResidentEngine(open_together(paths, "base"))
    weights = ({"mlp": [0.3, 0.7], "default": 0.5}, {"attention": [0.4, -0.6], "default": 0.2})
    sources = tuple(
        RecipeSource(name, {"weight": Profile.of(weight)})
        for name, weight in zip(("left", "noise"), weights, strict=True)
    )
    made = Recipe(method, sources, base="base")
    engine.merge_into(model, made)
    with engine.contraction(model, made) as contraction:
        found = contraction.slopes(loss(model))
    own = {c: slope for c, slope in found.items() if c.source == "noise"}
    assert {(c.selector, c.knot) for c in own} == {
        ("attention", 0),
        ("attention", 1),
        ("default", 0),
    }
    for coordinate, slope in own.items():
        # The factors are multiplied in single precision: 2⁻²⁴ of a weight within 10⁻³ of it.
        expected = difference(engine, model, made, coordinate, step=1e-3)
        assert abs(slope) > 1e-3
        assert slope == pytest.approx(expected, rel=1e-3), coordinate


def test_compiled_products_give_the_same_slopes(tmp_path, monkeypatch):
    model, checkpoints = architecture("qwen3 moe", tmp_path)
    made, found = recipe("task_arithmetic"), []
    for worthwhile in (0, 10**9):
        monkeypatch.setattr("automerge.merging.backends.code.WORTHWHILE", worthwhile)
        engine = ResidentEngine(checkpoints)
        engine.merge_into(model, made)
        with engine.contraction(model, made) as contraction:
            found.append(contraction.slopes(loss(model)))
    compiled, plain = found
    assert compiled == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert any(abs(slope) > 1e-3 for slope in plain.values())


def test_gradients_are_dropped_as_they_come(tmp_path):
    model, checkpoints = architecture("llama tied", tmp_path)
    engine, made = ResidentEngine(checkpoints), recipe("task_arithmetic")
    engine.merge_into(model, made)
    alive = []
    with engine.contraction(model, made) as contraction:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda _: alive.append(sum(p.grad is not None for p in model.parameters()))
            )
        contraction.slopes(loss(model))
    assert alive
    assert max(alive) == 0


def stacked(made: Recipe) -> Recipe:
    """All layers, the first two again with weights of their own, and the last two again without."""
    layers = ("base", "left", "right")
    own = {"left": {"weight": Profile.of({"attention": [0.2, 0.6], "default": 0.3})}}
    return dataclasses.replace(
        made,
        slices=(
            Slice(dict.fromkeys(layers, (0, 3))),
            Slice(dict.fromkeys(layers, (0, 2)), own, {"lambda": Profile.of(0.7)}),
            Slice(dict.fromkeys(layers, (1, 3))),
        ),
    )


def sliced_models(root) -> tuple[hf.PreTrainedModel, Mapping[str, Checkpoint]]:
    saved = {}
    for seed, name in enumerate(("base", "left", "right")):
        torch.manual_seed(0)
        config = CONFIGS["gpt2"]()
        config.n_layer = 3
        model = hf.AutoModelForCausalLM.from_config(config).double()
        if seed:
            perturb(model, seed, 0.1)
        model.save_pretrained(root / name)
        saved[name] = open_checkpoint(root / name)
    live = hf.AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float64)
    return live.eval().requires_grad_(False), saved


@pytest.mark.sample(1)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_slopes_of_repeated_layers_are_central_differences(method, tmp_path):
    model, checkpoints = sliced_models(tmp_path)
    engine, made = ResidentEngine(checkpoints), stacked(recipe(method))
    engine.merge_into(model, made)
    assert model.config.n_layer == 7
    with engine.contraction(model, made) as contraction:
        found = contraction.slopes(loss(model))
    assert {c.part for c in found} == {None, 1}
    assert set(found) <= set(made.coordinates)
    for coordinate, slope in found.items():
        expected = difference(engine, model, made, coordinate)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5), coordinate


def test_a_layer_that_is_run_twice_has_the_slopes_of_both_positions(tmp_path):
    """With weights of their own in either slice, these have the parts of the sum."""
    model, checkpoints = sliced_models(tmp_path)
    engine = ResidentEngine(checkpoints)
    sources = tuple(RecipeSource(n, {"weight": Profile.of(0.4)}) for n in ("left", "right"))
    spans = [dict.fromkeys(("base", "left", "right"), span) for span in ((0, 3), (1, 3))]
    together = Recipe("task_arithmetic", sources, "base", slices=tuple(map(Slice, spans)))
    weights = {source.name: source.knobs for source in sources}
    apart = dataclasses.replace(together, slices=tuple(Slice(span, weights) for span in spans))
    found = []
    for made in (together, apart):
        engine.merge_into(model, made)
        with engine.contraction(model, made) as contraction:
            found.append(contraction.slopes(loss(model)))
    sums, parts = found
    assert {c.part for c in sums} == {None}
    for coordinate, slope in sums.items():
        own = [parts[dataclasses.replace(coordinate, part=part)] for part in (0, 1)]
        assert slope == pytest.approx(sum(own), rel=1e-12)
        assert min(map(abs, own)) > 1e-6
