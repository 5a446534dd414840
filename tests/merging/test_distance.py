"""How far a live model is from the base."""

from __future__ import annotations

import math

import pytest
import torch

from automerge.merging import ResidentEngine, merge_to_folder, resident
from automerge.recipe import single
from tests.merging.test_merging import load, recipe


def naive(folder, base) -> float:
    """The relative distance of two folders' weights, in float64; tied weights count once."""
    own, others = (load(f, torch.float64).requires_grad_(False) for f in (folder, base))
    pairs = list(zip(own.parameters(), others.parameters(), strict=True))
    moved = sum(float(((x - y) ** 2).sum()) for x, y in pairs)
    return math.sqrt(moved / sum(float((y**2).sum()) for _, y in pairs))


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_that_of_the_exported_weights(folders, checkpoints, tmp_path, dtype) -> None:
    engine, model = ResidentEngine(checkpoints), load(folders["base"], dtype)
    for shift in (0.0, 0.3):
        chosen = recipe("task_arithmetic", shift)
        engine.merge_into(model, chosen)
        merge_to_folder(chosen, checkpoints, tmp_path / str(shift))
        expected = naive(tmp_path / str(shift), folders["base"])
        assert engine.distance(model, "base") == pytest.approx(expected, rel=1e-5)


def test_the_base_is_at_zero_and_comes_back_to_it(folders, checkpoints) -> None:
    engine, model = ResidentEngine(checkpoints), load(folders["base"])
    engine.merge_into(model, recipe("ties"))
    assert engine.distance(model, "base") > 0
    engine.merge_into(model, single("base"))
    assert engine.distance(model, "base") == 0


def test_only_what_was_merged_anew_is_measured_anew(folders, checkpoints, monkeypatch) -> None:
    engine, model = ResidentEngine(checkpoints), load(folders["base"])
    engine.merge_into(model, recipe("task_arithmetic"))
    before = engine.distance(model, "base")
    monkeypatch.setattr(resident, "squared_norms", None)
    engine.merge_into(model, recipe("task_arithmetic"))
    assert engine.distance(model, "base") == before
    engine.merge_into(model, recipe("task_arithmetic", 0.1))
    with pytest.raises(TypeError):
        engine.distance(model, "base")
