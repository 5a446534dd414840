"""Statistics of task vectors against the formulas written naively."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.inspection import weights as module
from automerge.inspection.nearest import find_nearest
from automerge.inspection.weights import measure

SHAPES = {
    "model.embed_tokens.weight": (13, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (9, 8),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.mlp.up_proj.weight": (9, 8),
    "model.norm.weight": (8,),
}
NAMES = ("left", "right", "third")


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


def near(base: dict[str, torch.Tensor], seed: int, scale: float = 0.1) -> dict[str, torch.Tensor]:
    noise = state(seed)
    kept = {n: t + (scale * noise[n]).to(t.dtype) for n, t in base.items()}
    kept["model.norm.weight"] = base["model.norm.weight"].clone()
    return kept


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float64])
def states(request):
    base = state(0, request.param)
    return {"base": base, **{name: near(base, seed) for seed, name in enumerate(NAMES, start=1)}}


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([t.double().numpy().ravel() for t in tensors.values()])


def run(states, **settings):
    return measure({n: MemoryCheckpoint(s) for n, s in states.items()}, "base", **settings)


@pytest.mark.parametrize("block", [7, 1 << 18])
def test_norms_cosines_and_sign_conflicts_are_those_of_the_formulas(states, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    found = run(states)
    base = flat(states["base"])
    delta = {name: flat(states[name]) - base for name in NAMES}
    for vector in found.vectors:
        d = delta[vector.source]
        assert vector.norm == pytest.approx(np.linalg.norm(d), rel=1e-6)
        assert vector.base_norm == pytest.approx(np.linalg.norm(base), rel=1e-6)
        assert vector.changed == pytest.approx(np.mean(d != 0))
    for (one, other), pair in zip(itertools.combinations(NAMES, 2), found.pairs, strict=True):
        a, b = delta[one], delta[other]
        assert (pair.one, pair.other) == (one, other)
        assert pair.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
        assert pair.distance == pytest.approx(np.linalg.norm(a - b), rel=1e-5)
        common = (a != 0) & (b != 0)
        assert pair.sign_conflict == pytest.approx(np.mean(a[common] * b[common] < 0))
    cosines = [pair.cosine for pair in found.pairs]
    assert found.kinship == pytest.approx(np.mean(cosines))


def test_cells_go_by_layer_and_component_from_the_embedding_to_the_norm(states):
    [vector, *_] = run(states).vectors
    assert [(c.layer, c.component) for c in vector.cells] == [
        (None, "embedding"),
        (0, "attention"),
        (0, "mlp"),
        (1, "attention"),
        (1, "mlp"),
        (None, "norm"),
    ]
    for cell, name in zip(vector.cells, SHAPES, strict=True):
        base, source = states["base"][name].double(), states["left"][name].double()
        assert cell.norm == pytest.approx((source - base).norm().item(), rel=1e-6)
        assert cell.base_norm == pytest.approx(base.norm().item(), rel=1e-6)
    assert vector.cells[-1].norm == 0


def test_a_copy_of_the_base_has_no_direction():
    base = state(0)
    found = run({"base": base, "left": near(base, 1), "right": dict(base)})
    assert found.vectors[1].norm == 0
    [pair] = found.pairs
    assert (pair.cosine, pair.sign_conflict) == (None, None)
    assert found.kinship is None


def test_what_is_no_number_is_counted_and_left_out():
    base = state(0)
    left = near(base, 1)
    name = "model.layers.0.mlp.up_proj.weight"
    left[name][0, :2] = float("nan")
    left[name][1, 0] = float("inf")
    found = run({"base": base, "left": left})
    [broken] = found.not_finite
    assert (broken.model, broken.tensor, broken.nan, broken.infinite) == ("left", name, 2, 1)
    delta = flat(left) - flat(base)
    assert found.vectors[0].norm == pytest.approx(np.linalg.norm(delta[np.isfinite(delta)]))


def test_progress_ends_with_all_elements(states):
    seen: list[tuple[int, int]] = []
    run(states, progress=lambda *p: seen.append(p))
    total = sum(t.numel() for t in states["base"].values())
    assert seen[-1] == (total, total)


def nearest(**states):
    return find_nearest({n: MemoryCheckpoint(s) for n, s in states.items()}, "base")


def test_a_fine_tune_is_nearest_to_the_base():
    base = state(0)
    found = nearest(base=base, left=near(base, 1), right=near(base, 2))
    assert {f.model for f in found.values()} == {"base"}
    assert all(f.derived for f in found.values())
    assert found["left"].to_base == pytest.approx(0.1, rel=0.2)


def test_a_fine_tune_of_a_fine_tune_is_nearest_to_that():
    base = state(0)
    left = near(base, 1)
    found = nearest(base=base, left=left, right=near(left, 2, 0.02))
    assert found["right"].model == "left"
    assert found["right"].derived


def test_a_stranger_is_not_derived_and_another_shape_is_not_comparable():
    base = state(0)
    other = {**state(2), "model.layers.0.mlp.up_proj.weight": torch.zeros(3, 8)}
    found = nearest(base=base, left=state(1), right=other)
    assert not found["left"].derived
    assert found["left"].to_base == pytest.approx(2**0.5, rel=0.1)
    assert found["right"] is None
