"""REPAIR of experts, by the tokens that each is sent: of merged mixtures, and of fewer experts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.nn.functional import linear, silu

from automerge.checkpoints import open_checkpoint
from automerge.evidence import MemoryEvidence, activations
from automerge.evidence.activations import gather_activations
from automerge.evidence.routing import Routing, gather_routing
from automerge.expert_groups import ExpertGroups
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.recipe import Profile, Recipe, RecipeSource, single
from tests.checkpoints.models import perturb, save
from tests.merging.test_expert_groups import KINDS, OUTER, best_order, blocks, load, naive_groups

NAMES = ("base", "a", "b")
WEIGHTS = {"a": 0.5, "b": 0.3}
LENGTHS = (60, 48, 60, 25, 60, 60, 60, 60)
_NAME = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.weight")
INNER = (("w1", "gate_proj"), ("w3", "up_proj"))


def pieces() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 64, (n,), generator=generator).tolist() for n in LENGTHS]


@pytest.fixture(scope="module", params=["mixtral", "qwen2_moe"])
def zoo(request, tmp_path_factory):
    """Checkpoints of mixtures and, by digest, what is known of the sources."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp(request.param)
    model = hf.AutoModelForCausalLM.from_config(KINDS[request.param]())
    folders = {n: save(perturb(model, i, 0.3), root / n) for i, n in enumerate(NAMES)}
    checkpoints = {name: open_checkpoint(folder) for name, folder in folders.items()}
    live, engine, evidence = load(folders["base"]), ResidentEngine(checkpoints), {}
    for name in WEIGHTS:
        engine.merge_into(live, single(name))
        tensors = engine.tensors(live)
        found = gather_activations(live, tensors, pieces())
        evidence[f"units-{name}"] = MemoryEvidence("activations", f"units-{name}", found, pieces())
        routing = gather_routing(live, tensors, pieces())
        evidence[f"routes-{name}"] = MemoryEvidence("routing", f"routes-{name}", routing)
    return folders, checkpoints, evidence


def recipe(groups: ExpertGroups | None = None, repair: float = 1.0) -> Recipe:
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in WEIGHTS.items())
    digests = {"activations": {n: f"units-{n}" for n in WEIGHTS}}
    if groups is not None:
        digests["routing"] = {n: f"routes-{n}" for n in WEIGHTS}
    return Recipe("linear", sources, evidence=digests, repair=repair, experts=groups)


def units(model: hf.PreTrainedModel, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each matrix of each expert puts out for the tokens it is sent, one by one."""
    entered: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []
    for name in {match[1] for n in stored if (match := _NAME.fullmatch(n))}:
        block = model.model.layers[int(name.split(".")[2])].mlp.experts

        def see(_, given, name=name):
            entered.setdefault(name, []).append((given[0].clone(), given[1].clone()))

        handles.append(block.register_forward_pre_hook(see))
    with torch.no_grad():
        for piece in pieces():
            model(input_ids=torch.tensor([piece]))
    for handle in handles:
        handle.remove()
    found = {}
    for block, own in blocks(stored).items():
        states = torch.cat([states for states, _ in entered[block]])
        chosen = torch.cat([chosen for _, chosen in entered[block]])
        names = {n for n in own if n != "gate"}
        gate, up = (next(n for n in pair if n in names) for pair in INNER)
        down = next(n for n in OUTER if n in names)
        for number in range(len(own["gate"])):
            rows = [s for s, c in zip(states, chosen, strict=True) if number in c.tolist()]
            tokens = torch.stack(rows) if rows else states[:0]
            inner = {name: linear(tokens, own[name][number]) for name in (gate, up)}
            inner[down] = linear(silu(inner[gate]) * inner[up], own[down][number])
            found |= {f"{block}.experts.{number}.{n}.weight": rows for n, rows in inner.items()}
    return found


def test_evidence_of_an_expert_is_of_the_tokens_it_is_sent_if_these_are_enough(zoo, monkeypatch):
    folders, checkpoints, _ = zoo
    stored = {n: checkpoints["a"].read(n).float() for n in checkpoints["a"].tensors}
    live = load(folders["a"])
    naive = units(live, stored)
    counts = sorted(len(rows) for rows in naive.values())
    least = counts[len(counts) // 2]
    monkeypatch.setattr(activations, "LEAST_TOKENS", least)
    engine = ResidentEngine(checkpoints)
    engine.merge_into(live, single("a"))
    found = gather_activations(live, engine.tensors(live), pieces())
    experts = {name for name in found if ".experts." in name}
    assert experts == {name for name, rows in naive.items() if len(rows) >= least}
    assert 0 < len(experts) < len(naive)
    for name in experts:
        wanted = torch.stack([naive[name].mean(0), naive[name].std(0, correction=0)])
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-4)


def targets(zoo, groups: ExpertGroups | None) -> dict[str, Tensor]:
    """The deviations that units should have, written naively; of groups by shares of use."""
    _, checkpoints, evidence = zoo
    known = [evidence[f"units-{n}"].tensors for n in WEIGHTS]
    shares = [w / sum(WEIGHTS.values()) for w in WEIGHTS.values()]
    plain = {
        name: sum(share * own[name][1] for share, own in zip(shares, known, strict=True))
        for name in known[0]
        if ".experts." in name and all(name in own for own in known)
    }
    if groups is None:
        return plain
    reference = blocks({n: checkpoints["a"].read(n) for n in checkpoints["a"].tensors})
    found = {}
    for block, own in reference.items():
        routes = (evidence[f"routes-{n}"].tensors[f"{block}.gate.weight"] for n in WEIGHTS)
        made = naive_groups(groups, [Routing.unpacked(packed) for packed in routes])
        for number, (members, parts, dominant) in enumerate(made):
            for matrix in own.keys() - {"gate"}:
                total, weight = torch.zeros(()), 0.0
                for n, part in zip(members, parts, strict=True):
                    one = plain.get(f"{block}.experts.{n}.{matrix}.weight")
                    if one is None:
                        continue  # it is sent too few tokens
                    if dominant is not None and matrix not in OUTER:
                        one = one[best_order(own, dominant, n)]
                    total, weight = total + part * one, weight + part
                if weight:
                    found[f"{block}.experts.{number}.{matrix}.weight"] = total / weight
    return found


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "groups", [None, ExpertGroups(3, "outputs"), ExpertGroups(2, "routing", 2)], ids=str
)
def test_experts_have_the_sources_deviations_and_the_export_has_their_bits(zoo, groups, tmp_path):
    folders, checkpoints, evidence = zoo
    live = load(folders["base"])
    engine = ResidentEngine(checkpoints, evidence=evidence)
    engine.merge_into(live, recipe(groups, 0.0))
    plain = {n: t.clone() for n, t in engine.tensors(live).items()}
    engine.merge_into(live, recipe(groups))
    stored = {n: t.clone() for n, t in engine.tensors(live).items()}
    own, wanted = units(live, stored), targets(zoo, groups)
    repaired = {n for n in wanted if len(own[n]) >= activations.LEAST_TOKENS}
    assert len(repaired) >= len(own) / 2
    for name in repaired:
        # float32, in sums of another order: 2⁻²⁴ times as many as a matrix has inputs, and layers.
        torch.testing.assert_close(
            own[name].std(0, correction=0), wanted[name], rtol=1e-3, atol=1e-4
        )
    changed = {n for n in own if not torch.equal(stored[n], plain[n])}
    assert changed == repaired
    written = merge_to_folder(
        recipe(groups), checkpoints, tmp_path / "out", evidence=evidence,
        scored=engine.weights(live, recipe(groups)),
    )  # fmt: skip
    ids = torch.tensor([pieces()[0]])
    with torch.no_grad():
        assert torch.equal(load(written.path)(ids).logits, live(ids).logits)
    engine.merge_into(live, recipe(groups, 0.0))
    assert all(torch.equal(t, plain[n]) for n, t in engine.tensors(live).items())
    engine.merge_into(live, replace(single("base")))
