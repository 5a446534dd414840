"""Mixtures whose experts are merged into fewer: live, on disk, and beside the papers' formulas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import silu

from automerge.checkpoints import open_checkpoint
from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.errors import ConfigError, PreflightError
from automerge.evaluation.generation.vllm.generator import _config as blueprint_config
from automerge.evaluation.generation.vllm.weights import handed_over
from automerge.evaluation.properties import MEASURES
from automerge.evidence import MemoryEvidence
from automerge.evidence.routing import Routing, gather_routing
from automerge.expert_groups import BY, ExpertGroups
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.merging.grouping import around_dominants, clusters, grouped, unit_order
from automerge.recipe import Profile, Recipe, RecipeSource, single
from automerge.store.schema import RECIPE, misfit
from tests.checkpoints.models import llama, perturb, save
from tests.merging.test_slopes import difference, loss

N_EXPERTS, N_LAYERS, WIDTH = 5, 2, 16
SIZES = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN = {**SIZES, "moe_intermediate_size": 12, "num_experts": N_EXPERTS}
KINDS = {
    "mixtral": lambda: hf.MixtralConfig(**SIZES, num_local_experts=N_EXPERTS, sliding_window=None),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(
        **QWEN, shared_expert_intermediate_size=20, mlp_only_layers=[0]
    ),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**QWEN, head_dim=8, norm_topk_prob=True),
    "olmoe": lambda: hf.OlmoeConfig(**SIZES, num_experts=N_EXPERTS),
}
NAMES = ("base", "a", "b")
TEXT = [[5, 9, 33, 60, 7], [12, 13, 14, 3], [50, 41, 8, 22, 19, 30, 2]]
TOKENS = torch.arange(24).reshape(2, 12)
_EXPERT = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.weight")
OUTER = ("w2", "down_proj")


@pytest.fixture(scope="module", params=list(KINDS))
def folders(request, tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    model = hf.AutoModelForCausalLM.from_config(KINDS[request.param]())
    # Weights of a size at which experts and routes matter.
    return {n: save(perturb(model, i, 0.3).bfloat16(), root / n) for i, n in enumerate(NAMES)}


@pytest.fixture
def checkpoints(folders):
    return {name: open_checkpoint(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def evidence(folders) -> dict[str, MemoryEvidence]:
    """How each source routes the text, by digest."""
    checkpoints = {name: open_checkpoint(folder) for name, folder in folders.items()}
    found = {}
    for number, name in enumerate(NAMES):
        live, merging = load(folders["base"]), ResidentEngine(checkpoints)
        merging.merge_into(live, single(name))
        routing = gather_routing(live, merging.tensors(live), TEXT)
        found[f"{number:032x}"] = MemoryEvidence("routing", f"{number:032x}", routing)
    return found


def load(folder: Path, dtype=torch.float32):
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS % 64).logits


def recipe(groups: ExpertGroups | None, *names: str) -> Recipe:
    names = names or ("a", "b")
    digests = {name: f"{NAMES.index(name):032x}" for name in names}
    sources = tuple(RecipeSource(name, {"weight": Profile.of(0.6)}) for name in names)
    return Recipe(
        "task_arithmetic",
        sources,
        "base",
        evidence={} if groups is None else {"routing": digests},
        experts=groups,
    )


CASES = [
    ExpertGroups(2, "outputs"),
    ExpertGroups(3, "routing", 1),
    ExpertGroups(1, "routing"),
    ExpertGroups(4, "outputs", 4),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize("groups", CASES)
def test_the_live_model_is_the_exported_one(groups, checkpoints, evidence, folders, tmp_path):
    made = recipe(groups)
    merge_to_folder(made, checkpoints, tmp_path / "out", evidence=evidence)
    exported, live = load(tmp_path / "out"), load(folders["base"])
    merging = ResidentEngine(checkpoints, evidence=evidence)
    merging.merge_into(live, made)
    assert torch.equal(logits(live), logits(exported))
    for name in ("parameters", "active_parameters"):
        counts = [MEASURES[name](SimpleNamespace(model=model)) for model in (live, exported)]
        assert counts[0] == counts[1]
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    key = "num_local_experts" if "num_local_experts" in settings else "num_experts"
    assert settings[key] == groups.count
    assert settings["num_experts_per_tok"] == (groups.per_token or min(3, groups.count))


@pytest.mark.sample(4)
@pytest.mark.parametrize("groups", CASES[:2])
def test_vllm_is_handed_what_an_export_holds(groups, checkpoints, evidence, folders, tmp_path):
    """Names, weights and configuration of the live model, which an engine is made from."""
    made = recipe(groups)
    merge_to_folder(made, checkpoints, tmp_path / "out", evidence=evidence)
    live = load(folders["base"])
    ResidentEngine(checkpoints, evidence=evidence).merge_into(live, made)
    exported, handed = load_file(tmp_path / "out" / "model.safetensors"), handed_over(live)
    assert handed.keys() == exported.keys()
    assert all(torch.equal(handed[name], exported[name].float()) for name in handed)
    said, settings = (json.loads(text) for text in (blueprint_config(live), config_of(tmp_path)))
    assert {**said, "dtype": settings["dtype"]} == settings


def config_of(folder: Path) -> str:
    return (folder / "out" / "config.json").read_text()


def blocks(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, list[torch.Tensor]]]:
    """Each matrix of all experts, in order, by block and name; and its router."""
    found: dict[str, dict[str, list[torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if match := _EXPERT.fullmatch(name):
            found.setdefault(match[1], {}).setdefault(match[3], []).append(tensor.float())
    for block, own in found.items():
        own["gate"] = list(tensors[f"{block}.gate.weight"].float())
    return found


def naive_groups(groups: ExpertGroups, routings: list[Routing]):
    """Members, shares and the dominant of each group, as the papers say."""
    used = sum(own.shares for own in routings) / len(routings)
    if groups.by == "outputs":
        points = torch.cat([own.outputs for own in routings], dim=1).double().numpy()
        labels = fcluster(linkage(points, "average"), groups.count, "maxclust").tolist()
        dominants = dict.fromkeys(labels)
    else:
        products = sum(own.products for own in routings)
        most = sorted(range(N_EXPERTS), key=lambda n: -used[n])[: groups.count]

        def cosine(n: int, m: int) -> float:
            return float(products[n, m] / (products[n, n] * products[m, m]).sqrt())

        labels = [
            n if n in most else max(most, key=lambda m: cosine(n, m)) for n in range(N_EXPERTS)
        ]
        dominants = {n: n for n in most}
    for label in dict.fromkeys(labels):
        members = [n for n in range(N_EXPERTS) if labels[n] == label]
        yield members, [float(used[n] / used[members].sum()) for n in members], dominants[label]


@pytest.mark.sample(6)
@pytest.mark.parametrize("groups", CASES)
def test_each_expert_is_its_groups_average_by_use(groups, checkpoints, evidence):
    merging = ResidentEngine(checkpoints, evidence=evidence)
    made = dict(merging.merge(recipe(groups)))
    plain = dict(merging.merge(recipe(None)))
    fewer, all_of = blocks(made), blocks(plain)
    reference = blocks({n: checkpoints["base"].read(n) for n in plain})
    assert fewer.keys() == all_of.keys()
    for block, own in fewer.items():
        routings = [
            Routing.unpacked(evidence[f"{NAMES.index(n):032x}"].read(f"{block}.gate.weight"))
            for n in ("a", "b")
        ]
        assert {len(tensors) for tensors in own.values()} == {groups.count}
        for number, (members, shares, dominant) in enumerate(naive_groups(groups, routings)):
            for matrix, tensors in own.items():
                wanted = torch.zeros_like(tensors[number], dtype=torch.float64)
                for n, share in zip(members, shares, strict=True):
                    part = all_of[block][matrix][n].double()
                    if dominant is not None and matrix != "gate":
                        order = best_order(reference[block], dominant, n)
                        part = part[:, order] if matrix in OUTER else part[order]
                    wanted += share * part
                # bfloat16 keeps 8 bits; sums in float32 move few of the roundings.
                torch.testing.assert_close(tensors[number].double(), wanted, rtol=2**-8, atol=1e-6)
    routed = ("experts.", ".gate.")
    rest = [name for name in made if not any(part in name for part in routed)]
    assert rest
    assert all(torch.equal(made[name], plain[name]) for name in rest)


def best_order(matrices: Mapping[str, list[torch.Tensor]], dominant: int, other: int):
    """The order of the other's hidden units with the least distance from the dominant's."""
    inner = [name for name in matrices if name not in (*OUTER, "gate")]
    [outer] = [name for name in matrices if name in OUTER]

    def rows(n: int) -> torch.Tensor:
        each = [matrices[name][n] for name in inner] + [matrices[outer][n].T]
        return torch.cat(each, dim=1).double()

    distances = torch.cdist(rows(dominant), rows(other)) ** 2
    return linear_sum_assignment(distances.numpy())[1]


def test_clusters_are_those_of_average_linkage():
    generator = torch.Generator().manual_seed(3)
    for n in (1, 2, 7, 12):
        points = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        for count in range(1, n + 1):
            found = clusters(points, count)
            tree = linkage(points.numpy(), "average") if n > 1 else np.zeros((0, 4))
            wanted = fcluster(tree, count, "maxclust") if n > 1 else [1]
            assert len(set(found)) == count
            assert [a == b for a in found for b in found] == [
                a == b for a in wanted for b in wanted
            ]


def test_experts_gather_about_those_used_most():
    """By hand: 2 and 0 are used most; 1 goes with 0 and 3 with 2; 4 is against both, less so 2."""
    logits = torch.tensor(
        [[1.0, 2, 0, 0, -3], [0, 0.1, 1, 3, -1], [0, 0, 1, 3, -1]], dtype=torch.float64
    )
    shares = torch.tensor([0.3, 0.1, 0.4, 0.1, 0.1], dtype=torch.float64)
    labels, dominants = around_dominants(shares, logits.T @ logits, 2)
    assert dominants == {0: 2, 1: 0}
    assert labels == [1, 1, 0, 0, 0]


def test_experts_that_are_never_chosen_count_the_same():
    shares = torch.tensor([0.0, 0, 1, 0])
    alike = Routing(shares, torch.tensor([[0.0], [0], [9], [9]]), torch.eye(4))
    first, second = grouped([alike], "outputs", 2)
    assert (first.members, first.shares) == ((0, 1), (0.5, 0.5))
    assert (second.members, second.shares) == ((2, 3), (1.0, 0.0))


def test_an_expert_is_found_again_whose_units_were_shuffled():
    generator = torch.Generator().manual_seed(1)
    ours = [torch.randn(9, 6, generator=generator) for _ in range(3)]
    shuffled = torch.randperm(9, generator=generator)
    order = unit_order(ours, [own[shuffled] for own in ours])
    assert torch.equal(shuffled[order], torch.arange(9))


def test_routing_is_what_a_token_by_token_run_says(folders):
    live = load(folders["a"])
    names = [n for n in open_checkpoint(folders["a"]).tensors if n.endswith(".gate.weight")]
    entered: dict[str, list[torch.Tensor]] = {}
    per_token = live.config.num_experts_per_tok
    tensors = {}
    for name in names:
        block = live.model.layers[int(name.split(".")[2])].mlp
        block.register_forward_pre_hook(
            lambda module, args, n=name: entered.setdefault(n, []).append(args[0][0].clone())
        )
        tensors[name] = block.gate.weight
    found = gather_routing(live, tensors, TEXT)
    stored = blocks({n: open_checkpoint(folders["a"]).read(n) for n in all_names(folders["a"])})
    assert list(found) == names
    for name in names:
        routing, states = Routing.unpacked(found[name]), torch.cat(entered[name])
        own = stored[name.removesuffix(".gate.weight")]
        gate, up, down = (
            own[first if first in own else second]
            for first, second in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"))
        )
        rows = torch.stack(own["gate"])
        counts, outputs = torch.zeros(N_EXPERTS), torch.zeros(N_EXPERTS, WIDTH)
        products = torch.zeros(N_EXPERTS, N_EXPERTS)
        for state in states:
            scores = rows @ state
            counts[scores.argsort(descending=True)[:per_token]] += 1
            products += torch.outer(scores, scores)
            for n in range(N_EXPERTS):
                outputs[n] += down[n] @ (silu(gate[n] @ state) * (up[n] @ state))
        torch.testing.assert_close(routing.shares, counts / counts.sum())
        torch.testing.assert_close(routing.outputs, outputs / len(states), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(routing.products, products / len(states), rtol=1e-4, atol=1e-5)


def all_names(folder: Path) -> list[str]:
    return list(open_checkpoint(folder).tensors)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k in ("olmoe", "qwen3_moe") else k for k in KINDS],
)
@pytest.mark.parametrize("by", BY)
def test_slopes_of_pooled_experts_are_central_differences(kind, by, tmp_path):
    """Each expert of a group moves what they become by its share, its units where they went."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(KINDS[kind]())
    for i, name in enumerate(NAMES):
        save(perturb(model, i, 0.3), tmp_path / name)
    checkpoints = {name: open_checkpoint(tmp_path / name) for name in NAMES}
    live, merging, evidence = load(tmp_path / "base"), ResidentEngine(checkpoints), {}
    for number, name in enumerate(NAMES):
        merging.merge_into(live, single(name))
        routing = gather_routing(live, merging.tensors(live), TEXT)
        evidence[f"{number:032x}"] = MemoryEvidence("routing", f"{number:032x}", routing)
    weights = {"router": 0.3, "mlp": [0.3, 0.7], "attention": 0.6, "default": 0.4}
    made = recipe(ExpertGroups(2, by))
    sources = (RecipeSource("a", {"weight": Profile.of(weights)}), *made.sources[1:])
    made = replace(made, sources=sources, knobs={"lambda": Profile.of(0.8)})
    engine = ResidentEngine(checkpoints, evidence=evidence)
    live.requires_grad_(False)
    engine.merge_into(live, made)
    with engine.contraction(live, made) as contraction:
        found = contraction.slopes(loss(live))
    assert found.keys() == set(made.coordinates)
    largest = max(map(abs, found.values()))
    for coordinate, slope in found.items():
        expected = difference(engine, live, made, coordinate, 1e-3)
        # float32: losses of about 100 are known to 1e-5, differences over 2e-3 to 1e-2.
        assert slope == pytest.approx(expected, rel=2e-2, abs=1e-2 * largest), coordinate


def test_as_many_experts_as_before_change_nothing(checkpoints, evidence):
    merging = ResidentEngine(checkpoints, evidence=evidence)
    plain = dict(merging.merge(recipe(None)))
    made = dict(merging.merge(recipe(ExpertGroups(N_EXPERTS, "outputs"))))
    assert list(made) == list(plain)
    assert all(torch.equal(made[name], plain[name]) for name in plain)


def test_twins_become_one_without_a_change(tmp_path):
    """Experts and routers in pairs: with all of them per token, one of each pair does the same."""
    torch.manual_seed(0)
    config = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 4, "sliding_window": None}
    model = perturb(hf.MixtralForCausalLM(hf.MixtralConfig(**config)), 0, 0.3)
    shuffled = torch.randperm(24)
    with torch.no_grad():
        for layer in model.model.layers:
            experts = layer.mlp.experts
            up = experts.gate_up_proj[:2].reshape(2, 2, 24, WIDTH)[:, :, shuffled]
            experts.gate_up_proj[2:] = up.reshape(2, 48, WIDTH)
            experts.down_proj[2:] = experts.down_proj[:2][:, :, shuffled]
            layer.mlp.gate.weight[2:] = layer.mlp.gate.weight[:2]
    folder = save(model, tmp_path / "twins")
    checkpoints = {"twins": open_checkpoint(folder)}
    live, merging = load(folder), ResidentEngine(checkpoints)
    merging.merge_into(live, single("twins"))
    before = logits(live)
    routing = gather_routing(live, merging.tensors(live), TEXT)
    # Of two equal scores the router takes either; both are used by every token here.
    evidence = {"0" * 32: MemoryEvidence("routing", "0" * 32, routing)}
    merging = ResidentEngine(checkpoints, evidence=evidence)
    made = replace(
        single("twins"),
        evidence={"routing": {"twins": "0" * 32}},
        experts=ExpertGroups(2, "routing"),
    )
    merging.merge_into(live, made)
    assert live.num_parameters() < model.num_parameters()
    # float32, added up in another order: 2⁸ roundings of the largest logit.
    assert torch.allclose(logits(live), before, rtol=0, atol=2**-16 * float(before.abs().max()))


@pytest.mark.sample(2)
def test_a_model_changes_between_numbers_of_experts(checkpoints, evidence, folders):
    live = load(folders["base"])
    merging = ResidentEngine(checkpoints, evidence=evidence)
    said = {key: getattr(live.config, key) for key in ("num_experts_per_tok", "vocab_size")}
    written = []
    for groups in (None, CASES[0], CASES[1], CASES[1], CASES[3], None):
        written.append(merging.merge_into(live, recipe(groups)).n_written)
        fresh = load(folders["base"])
        ResidentEngine(checkpoints, evidence=evidence).merge_into(fresh, recipe(groups))
        assert torch.equal(logits(live), logits(fresh))
    assert written[3] == 0
    merging.merge_into(live, single("base"))
    assert torch.equal(logits(live), logits(load(folders["base"])))
    assert said == {key: getattr(live.config, key) for key in said}


def test_a_configuration_may_name_experts_as_their_authors_do(tmp_path):
    """Qwen3's own files say num_experts, transformers' num_local_experts."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(KINDS["qwen3_moe"]())
    folder = save(perturb(model, 0, 0.3), tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    settings["num_experts"] = settings.pop("num_local_experts")
    (folder / "config.json").write_text(json.dumps(settings))
    checkpoints = {"base": open_checkpoint(folder)}
    live, merging = load(folder), ResidentEngine(checkpoints)
    merging.merge_into(live, single("base"))
    routing = gather_routing(live, merging.tensors(live), TEXT)
    evidence = {"0" * 32: MemoryEvidence("routing", "0" * 32, routing)}
    made = replace(
        single("base"),
        evidence={"routing": {"base": "0" * 32}},
        experts=ExpertGroups(2, "outputs"),
    )
    ResidentEngine(checkpoints, evidence=evidence).merge_into(live, made)
    merge_to_folder(made, checkpoints, tmp_path / "out", evidence=evidence)
    assert torch.equal(logits(live), logits(load(tmp_path / "out")))


def test_a_file_has_it_and_gives_it_back(folders, tmp_path):
    for groups in CASES:
        made = recipe(groups)
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe_text(made, {name: str(folders[name]) for name in NAMES}))
        assert read_recipe(path).recipe == made
        plain = made.plain()
        assert Recipe.from_plain(plain) == made
        assert misfit(RECIPE, json.dumps(plain)) is None
        assert hash(made) != hash(replace(made, experts=None))


FAULTS = [
    ({"count": 0}, "expected a number of experts from 1; got 0"),
    ({"count": True}, "expected a whole number; got True"),
    ({"count": None}, "expected a whole number; got None"),
    ({"per_token": 3}, "expected a number from 1 to 2, that of the experts that are left; got 3"),
    ({"by": "output"}, "expected outputs or routing, got 'output'; did you mean 'outputs'"),
    ({"by": 2}, "expected one of outputs, routing; got 2"),
    ({"top_k": 1}, "unknown key 'top_k'"),
]


def written(tmp_path: Path, experts: dict, **changes: object) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
    plain = {
        "models": {"a": "./a", "b": "./b"},
        "method": "linear",
        "sources": {"a": {}, "b": {}},
        "experts": experts,
        "evidence": {"routing": {"a": "0" * 32, "b": "1" * 32}},
        **changes,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(plain, indent=1))
    return path


@pytest.mark.parametrize(("changed", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_what_is_no_number_of_experts_is_refused_where_it_is_written(changed, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as raised:
        read_recipe(written(tmp_path, {"count": 2, "by": "outputs", **changed}))
    assert all(fault.location is not None for fault in raised.value.faults)


def test_what_does_not_go_with_it_is_refused(tmp_path):
    groups = {"count": 2, "by": "outputs"}
    mixture = {"experts": ["a", "b"], "per_token": 1, "gates": "random"}
    for changes, message in (
        ({"evidence": {}}, "by evidence of the kind routing, which a, b lack: name its digest"),
        ({"mixture": mixture}, "experts that are merged are those of the models; remove this"),
        (
            {"slices": [{"layers": {"a": [0, 1], "b": [0, 1]}}]},
            "the base's layers; remove `slices`",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as raised:
            read_recipe(written(tmp_path, groups, **changes))
        assert all(fault.location is not None for fault in raised.value.faults)


def test_more_experts_than_there_are_and_dense_models_are_refused(checkpoints, tmp_path):
    merging = ResidentEngine(checkpoints)
    with pytest.raises(PreflightError, match="expected a number from 1 to 5, that of the experts"):
        list(merging.merge(recipe(ExpertGroups(6, "outputs"))))
    dense = save(llama(), tmp_path / "dense")
    made = replace(recipe(CASES[0], "a"), base=None, method="linear")
    with pytest.raises(PreflightError, match=r"merged of mixtral, olmoe, .* got llama"):
        list(ResidentEngine({"a": open_checkpoint(dense)}).merge(made))


def test_evidence_of_other_models_is_refused(checkpoints):
    empty = {f"{n:032x}": MemoryEvidence("routing", f"{n:032x}", {}) for n in range(3)}
    with pytest.raises(PreflightError, match=r"does not say how .* routes: gather it again"):
        list(ResidentEngine(checkpoints, evidence=empty).merge(recipe(CASES[0])))
