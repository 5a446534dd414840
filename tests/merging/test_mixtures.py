"""Recipes of mixtures of experts: live, on disk, and beside a mixture computed naively."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from torch.nn.functional import silu

from automerge.checkpoints import open_checkpoint
from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.errors import ConfigError, PreflightError
from automerge.evaluation.properties import MEASURES
from automerge.evidence import MemoryEvidence
from automerge.evidence.activations import gather_activations, pass_through
from automerge.evidence.gather import gather_hidden_state, linear_layers
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.mixture import Mixture
from automerge.recipe import Profile, Recipe, RecipeSource, Slice, single, uniform_average
from automerge.store.schema import RECIPE, misfit
from tests.checkpoints.models import llama, perturb, save

NAMES = ("base", "a", "b", "c")
N_LAYERS = 3
TOKENS = torch.arange(24).reshape(2, 12)


def dense(kind: str):
    """A Llama without ties, a tied one, a Mistral that looks back four tokens, or a Qwen2."""
    model = llama(tied=kind == "tied")
    if kind in ("llama", "tied"):
        return model
    config = {**model.config.to_dict(), "sliding_window": 4, "model_type": kind}
    if kind == "qwen2":
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**config))
    return hf.MistralForCausalLM(hf.MistralConfig(**config))


@pytest.fixture(scope="module", params=["llama", "tied", "mistral", "qwen2"])
def folders(request, tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    root, base = tmp_path_factory.mktemp("models"), dense(request.param)
    # Weights of a size at which experts and routes matter.
    return {
        name: save(perturb(base, seed, 0.3).bfloat16(), root / name)
        for seed, name in enumerate(NAMES)
    }


@pytest.fixture
def checkpoints(folders):
    return {name: open_checkpoint(folder) for name, folder in folders.items()}


def load(folder: Path, dtype=torch.float32):
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS % 64).logits


def evidence(width: int = 16) -> dict[str, MemoryEvidence]:
    """What hidden gates are made of: a vector per expert and layer, by digest."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for number in range(1, len(NAMES)):
        states = {
            f"model.layers.{layer}.mlp.gate_proj.weight": torch.randn(width, generator=generator)
            for layer in range(N_LAYERS)
        }
        digest = f"{number:032x}"
        found[digest] = MemoryEvidence("hidden_state", digest, states)
    return found


def recipe(gates: str, per_token: int, layers: tuple[int, int] | None = None) -> Recipe:
    digests = dict(zip(NAMES[1:], evidence(), strict=True))
    sources = tuple(
        RecipeSource(name, {"weight": Profile.of(w)})
        for name, w in zip(NAMES[1:], (1, 2, 0.5), strict=True)
    )
    return Recipe(
        "task_arithmetic",
        sources,
        "base",
        seed=7,
        evidence={"hidden_state": digests} if gates == "hidden" else {},
        mixture=Mixture(NAMES[1:], per_token, gates, layers),
    )


def engine(checkpoints) -> ResidentEngine:
    return ResidentEngine(checkpoints, evidence=evidence())


CASES = [("uniform", 3, None), ("random", 2, None), ("hidden", 1, (1, 3)), ("hidden", 2, (0, 2))]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("gates", "per_token", "layers"), CASES)
def test_the_live_model_is_the_exported_one(
    gates, per_token, layers, checkpoints, folders, tmp_path
):
    made = recipe(gates, per_token, layers)
    merge_to_folder(made, checkpoints, tmp_path / "out", evidence=evidence())
    exported, live = load(tmp_path / "out"), load(folders["base"])
    kind = json.loads((folders["base"] / "config.json").read_text())["model_type"]
    wanted = hf.Qwen2MoeForCausalLM if kind == "qwen2" else hf.MixtralForCausalLM
    assert type(exported) is wanted
    merging = engine(checkpoints)
    merging.merge_into(live, made)
    assert torch.equal(logits(live), logits(exported))
    for name in ("parameters", "active_parameters"):
        counts = [MEASURES[name](SimpleNamespace(model=model)) for model in (live, exported)]
        assert counts[0] == counts[1]
    stored = dict(engine(checkpoints).merge(made))
    held = merging.tensors(live)
    assert all(torch.equal(tensor.float(), stored[name].float()) for name, tensor in held.items())


def gate_rows(tensors, layer: int) -> torch.Tensor:
    """The gates of a layer's experts."""
    [name] = [n for n in tensors if re.fullmatch(rf"model.layers.{layer}.*\.gate\.weight", n)]
    return tensors[name].float()


def naive(folders, made: Recipe, gates: Mapping[str, torch.Tensor], checkpoints):
    """The merge as a dense model, in each of whose layers experts are run one by one."""
    plain = load(folders["base"])
    ResidentEngine(checkpoints).merge_into(plain, replace(made, mixture=None, evidence={}))
    experts = [load(folders[name]) for name in made.mixture.experts]
    shared = plain.config.model_type == "qwen2"
    for number, layer in enumerate(plain.model.layers):
        own = [model.model.layers[number].mlp for model in experts]
        if made.mixture.layers and number not in range(*made.mixture.layers):
            if shared:
                continue
            own = [layer.mlp] * len(experts)
        half = layer.mlp if shared else None
        layer.mlp = Naive(own, gate_rows(gates, number), made.mixture.per_token, half)
    return plain


class Naive(torch.nn.Module):
    """Token by token: the softmax of all scores, of which the largest k are taken and rescaled.

    With a shared expert, the mean of that and of its own.
    """

    def __init__(self, experts, gates, per_token, shared):
        super().__init__()
        self.experts, self.gates, self.per_token = experts, gates, per_token
        self.shared = shared

    def forward(self, states):
        out = torch.zeros_like(states)
        for place in [(i, j) for i in range(len(states)) for j in range(states.shape[1])]:
            x = states[place]
            shares = (self.gates @ x).exp() / (self.gates @ x).exp().sum()
            chosen = shares.argsort(descending=True)[: self.per_token].tolist()
            for k in chosen:
                mlp = self.experts[k]
                up, gate = mlp.up_proj.weight @ x, mlp.gate_proj.weight @ x
                share = shares[k] / shares[chosen].sum()
                out[place] += share * (mlp.down_proj.weight @ (silu(gate) * up))
        return out if self.shared is None else (out + self.shared(states)) / 2


@pytest.mark.sample(4)
@pytest.mark.parametrize(("gates", "per_token", "layers"), CASES)
def test_a_token_passes_the_experts_its_gates_choose(
    gates, per_token, layers, checkpoints, folders
):
    made = recipe(gates, per_token, layers)
    live, merging = load(folders["base"]), engine(checkpoints)
    merging.merge_into(live, made)
    wanted = logits(naive(folders, made, merging.tensors(live), checkpoints))
    # float32, added up in another order: 2⁸ roundings of the largest logit.
    rounding = 2**-16 * wanted.abs().max()
    assert torch.allclose(logits(live), wanted, rtol=0, atol=rounding)
    assert not torch.allclose(logits(load(folders["base"])), wanted, rtol=0, atol=100 * rounding)


def test_gates_are_what_they_say(checkpoints):
    def gates(made: Recipe, layer: int) -> torch.Tensor:
        return gate_rows(dict(engine(checkpoints).merge(made)), layer)

    assert not gates(recipe("uniform", 3), 1).any()
    random = torch.cat([gates(recipe("random", 2), layer) for layer in range(N_LAYERS)])
    assert random.unique(dim=0).shape == (3 * N_LAYERS, 16)
    # 144 numbers of variance 1: the mean is within 4 standard errors of 0.
    assert abs(random.mean()) < 4 / 12
    assert random.std() == pytest.approx(1, abs=0.2)
    other = replace(recipe("random", 2), seed=8)
    assert not torch.equal(gates(other, 0), gates(recipe("random", 2), 0))
    for row, found in zip(gates(recipe("hidden", 1), 1), evidence().values(), strict=True):
        state = found.read("model.layers.1.mlp.gate_proj.weight")
        assert torch.allclose(row, state / state.norm(), rtol=2**-8)


def test_with_experts_that_are_the_merge_it_computes_what_the_merge_does(checkpoints, folders):
    """Outside its layers: here in all but one, whose experts are one model, whichever is chosen."""
    sources = (RecipeSource("a", {"weight": Profile.of(1)}),)
    made = Recipe("linear", sources, mixture=Mixture(("a", "a", "a"), 2, "random", (1, 2)))
    live, plain = (load(folders["base"]) for _ in range(2))
    engine(checkpoints).merge_into(live, made)
    ResidentEngine(checkpoints).merge_into(plain, single("a"))
    assert torch.allclose(logits(live), logits(plain), rtol=1e-4, atol=1e-4)


def deeper() -> Recipe:
    """A model of four layers, the last run twice."""
    sources = (RecipeSource("a", {"weight": Profile.of(1)}),)
    return Recipe("linear", sources, slices=(Slice({"a": (0, 3)}), Slice({"a": (2, 3)})))


@pytest.mark.sample(2)
def test_a_model_changes_between_mixtures_and_dense_ones(checkpoints, folders):
    live, merging = load(folders["base"]), engine(checkpoints)
    made = [
        uniform_average(NAMES[1:]),
        recipe("hidden", 2),
        replace(recipe("random", 1), mixture=Mixture(("c", "b"), 1, "random")),
        uniform_average(NAMES[1:]),
        recipe("random", 1),
        deeper(),
        recipe("uniform", 3),
        recipe("uniform", 3),
    ]
    written = []
    for one in made:
        written.append(merging.merge_into(live, one).n_written)
        fresh = load(folders["base"])
        engine(checkpoints).merge_into(fresh, one)
        assert torch.equal(logits(live), logits(fresh))
    assert written[-1] == 0
    # One expert less per token: no weight changes, but what is computed does.
    merging.merge_into(live, recipe("hidden", 2))
    before = logits(live)
    assert merging.merge_into(live, recipe("hidden", 1)).n_written == 0
    assert not torch.equal(logits(live), before)
    merging.merge_into(live, single("base"))
    assert torch.equal(logits(live), logits(load(folders["base"])))
    assert not any(hasattr(live.config, f"num_{own}experts") for own in ("", "local_"))


def test_experts_of_an_earlier_mixture_leave_no_copies(checkpoints, folders):
    live, merging = load(folders["base"]), engine(checkpoints)
    merging.merge_into(live, recipe("random", 1))
    earlier = weakref.ref(live.model.layers[0].mlp)
    merging.merge_into(live, single("a"))
    assert earlier() is not None
    merging.merge_into(live, replace(recipe("random", 1), mixture=Mixture(("c", "b"), 1, "random")))
    gc.collect()
    assert earlier() is None


def test_a_mixture_has_no_distance_to_the_base(checkpoints, folders):
    live, merging = load(folders["base"]), engine(checkpoints)
    merging.merge_into(live, recipe("uniform", 3))
    with pytest.raises(PreflightError, match="only for models with the base's layers"):
        merging.distance(live, "base")
    merging.merge_into(live, single("a"))
    assert merging.distance(live, "base") > 0


def test_a_hidden_state_is_the_mean_of_what_enters_a_layer(folders):
    live = load(folders["base"])
    entered: dict[int, list[torch.Tensor]] = {}
    for number, layer in enumerate(live.model.layers):
        layer.register_forward_pre_hook(
            lambda module, args, n=number: entered.setdefault(n, []).append(args[0][0].clone())
        )
    names = [f"model.layers.{number}.mlp.gate_proj.weight" for number in range(N_LAYERS)]
    tensors = dict.fromkeys([*names, "model.norm.weight"], torch.zeros(1))
    found = gather_hidden_state(live, tensors, [[1, 2, 3], [4, 5, 6, 7, 8]])
    assert list(found) == names
    for number, name in enumerate(names):
        wanted = torch.cat(entered[number]).mean(0)
        assert torch.allclose(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_a_file_has_it_and_gives_it_back(folders, tmp_path):
    made = recipe("hidden", 1, (0, 2))
    path = tmp_path / "recipe.yaml"
    models = {name: str(folders[name]) for name in NAMES}
    path.write_text(recipe_text(made, models))
    assert read_recipe(path).recipe == made
    plain = made.plain()
    assert Recipe.from_plain(plain) == made
    assert misfit(RECIPE, json.dumps(plain)) is None
    assert hash(made) != hash(replace(made, mixture=None))


FAULTS = [
    ({"experts": ["a"]}, "a mixture has 2 experts or more; got 1"),
    ({"experts": "a, b"}, "expected a list of models' names; got 'a, b'"),
    ({"per_token": 3}, "expected a number from 1 to 2, that of the experts; got 3"),
    ({"per_token": 0}, "expected a number from 1 to 2, that of the experts; got 0"),
    ({"per_token": True}, "expected a whole number; got True"),
    ({"gates": "uniform", "per_token": 1}, "all 2 experts per token, since uniform gates prefer"),
    ({"gates": "unifrom"}, "unknown gates 'unifrom'; did you mean 'uniform'"),
    ({"gates": "hidden"}, "need evidence of the kind hidden_state from a, b: name its digest"),
    ({"layers": [2, 2]}, "expected the first layer, counted from 0, and the one past the last"),
    ({"layers": [0, 1.5]}, r"expected \[FIRST, END\], numbers of layers from 0; got \[0, 1.5\]"),
    ({"top_k": 1}, "unknown key 'top_k'"),
    ({"gates": None}, "expected one of uniform, random, hidden; got None"),
]


@pytest.mark.parametrize(("changed", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_what_is_no_mixture_is_refused_where_it_is_written(changed, message, tmp_path):
    mixture = {"experts": ["a", "b"], "per_token": 1, "gates": "random", **changed}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    path = tmp_path / "recipe.yaml"
    plain = {"method": "linear", "sources": {"a": {}, "b": {}}, "mixture": mixture}
    path.write_text(json.dumps({"models": {"a": "./a", "b": "./b"}, **plain}, indent=1))
    with pytest.raises(ConfigError, match=message) as raised:
        read_recipe(path)
    assert all(fault.location is not None for fault in raised.value.faults)


def test_layers_that_are_not_there_are_refused(checkpoints):
    with pytest.raises(PreflightError, match=r"mixture: expected layers up to 3, got \[1, 4\]"):
        list(engine(checkpoints).merge(recipe("random", 1, (1, 4))))


def test_slices_and_a_mixture_exclude_each_other(checkpoints):
    sliced = replace(recipe("random", 1), slices=(Slice(dict.fromkeys(NAMES, (0, 3))),))
    with pytest.raises(ConfigError, match="a mixture of experts has the base's layers; remove"):
        list(engine(checkpoints).merge(sliced))


@pytest.mark.sample(2)
@pytest.mark.parametrize(("gates", "per_token", "layers"), [CASES[0], CASES[2]])
def test_what_is_merged_is_calibrated_and_experts_are_as_they_were(
    gates, per_token, layers, checkpoints, folders, tmp_path
):
    pieces = [[5, 9, 33, 21, 7, 60, 2, 11], [40, 41, 8, 8, 19], [50, 3, 12, 30, 31, 32, 33, 34]]
    known = evidence()
    for name in NAMES[1:]:
        model = load(folders[name])
        found = gather_activations(model, dict(model.named_parameters()), pieces)
        known[name] = MemoryEvidence("activations", name, found, pieces)
    plain = recipe(gates, per_token, layers)
    digests = {**plain.evidence, "activations": {name: name for name in NAMES[1:]}}
    made = replace(plain, evidence=digests, repair=1.0)
    live, merging = load(folders["base"]), ResidentEngine(checkpoints, evidence=known)
    before = {}
    for now in (plain, made):
        merging.merge_into(live, now)
        before[now.repair] = {n: t.clone() for n, t in merging.tensors(live).items()}
    changed = {n for n, t in before[1.0].items() if not torch.equal(t, before[0.0][n])}
    parts = {n for n in before[1.0] if ".self_attn." in n and not n.endswith(".bias")}
    # The shared expert of a Qwen2-MoE is the merge.
    parts |= {n for n in before[1.0] if ".shared_expert." in n}
    assert parts <= changed
    experts = {n for n in before[1.0] if ".experts." in n or ".gate." in n}
    assert experts
    assert not experts & changed
    share = {name: w / 3.5 for name, w in zip(NAMES[1:], (1, 2, 0.5), strict=True)}
    own = {}
    pass_through(
        live,
        linear_layers(live, merging.tensors(live)),
        {},
        pieces,
        lambda n, _, rows: own.setdefault(n, rows),
    )
    for name in parts:
        dense = name.replace("shared_expert.", "")
        target = sum(share[source] * known[source].tensors[dense][1] for source in share)
        # Weights are rounded to bfloat16, and so are those of the layers before.
        torch.testing.assert_close(own[name].std(0, correction=0), target, rtol=0.03, atol=1e-3)
    scored = merging.weights(live, made)
    merge_to_folder(made, checkpoints, tmp_path / "out", evidence=known, scored=scored)
    assert torch.equal(logits(load(tmp_path / "out")), logits(live))


def test_experts_need_not_be_merged(checkpoints, folders):
    """All but the experts is the base's, as by mergekit-moe."""
    made = Recipe(
        "linear",
        (RecipeSource("base", {"weight": Profile.of(1)}),),
        mixture=Mixture(("a", "b"), 1, "random"),
    )
    for name, tensor in engine(checkpoints).merge(made):
        match = re.fullmatch(r"model\.layers\.(\d)\.\w+\.experts\.(\d)\.(\w+)\.weight", name)
        if match:
            part = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(match[3], match[3])
            model, stored = "ab"[int(match[2])], f"model.layers.{match[1]}.mlp.{part}.weight"
        elif name.endswith("gate.weight"):
            continue
        else:
            model, stored = "base", name.replace(".shared_expert", "")
        wanted = checkpoints[model].read(stored)
        beside = checkpoints["base"].config["model_type"] == "qwen2"
        halved = match and beside and "down_proj" in stored
        assert torch.equal(tensor, wanted / 2 if halved else wanted), name
