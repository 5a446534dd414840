"""LoRA-LEGO: adapters' ranks, clustered; beside the paper's formulas, naively."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from automerge import cli
from automerge.checkpoints import LowRank
from automerge.merging.rank_clusters import clusters, merged_units
from tests.checkpoints.adapters import logits, opened, train

M, N = 7, 5


def adapter(rank: int, seed: int, scale: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((M, rank), (rank, N)))
    return LowRank(torch.zeros(M, N), up, down, scale)


def product(one: LowRank) -> np.ndarray:
    return one.scale * (one.up.double() @ one.down.double()).numpy()


def units(adapters) -> np.ndarray:
    """Every rank of every adapter, as the row [√s b, √s a]."""
    rows = []
    for one in adapters:
        for j in range(one.down.shape[0]):
            both = np.concatenate([one.up[:, j].numpy(), one.down[j].numpy()])
            rows.append(np.sqrt(one.scale) * both.astype(np.float64))
    return np.array(rows)


def naive(adapters, labels, count: int) -> np.ndarray:
    """Σ over clusters of b aᵀ of the centroid at its units' mean norm, times √(r / k)."""
    rows, m = units(adapters), adapters[0].up.shape[0]
    total = np.zeros((m, adapters[0].down.shape[1]))
    for label in range(count):
        members = [row for row, own in zip(rows, labels, strict=True) if own == label]
        centre = sum(members) / len(members)
        centre *= np.mean([np.linalg.norm(row) for row in members]) / np.linalg.norm(centre)
        total += np.outer(centre[:m], centre[m:])
    mean_rank = np.mean([one.down.shape[0] for one in adapters])
    return total * np.sqrt(mean_rank / count)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_centroids_are_scaled_as_in_the_paper(count):
    adapters = [adapter(4, 1), adapter(4, 2, scale=2.0), adapter(3, 3, scale=0.5)]
    labels = clusters(torch.from_numpy(units(adapters)), count)
    assert set(labels) == set(range(count))
    up, down = merged_units(adapters, count)
    assert up.shape == (M, count)
    assert down.shape == (count, N)
    wanted = naive(adapters, labels, count)
    np.testing.assert_allclose((up.double() @ down.double()).numpy(), wanted, atol=1e-5)


def spread(points: np.ndarray, labels) -> float:
    groups = [points[np.array(labels) == label] for label in set(labels)]
    return sum(((group - group.mean(0)) ** 2).sum() for group in groups)


def test_clusters_are_as_tight_as_any():
    """Of 8 points in 4 dimensions, against all divisions into 3."""
    points = np.random.default_rng(0).normal(size=(8, 4))
    every = (own for own in itertools.product(range(3), repeat=8) if len(set(own)) == 3)
    best = min(spread(points, own) for own in every)
    found = clusters(torch.from_numpy(points), 3)
    assert spread(points, found) == pytest.approx(best, rel=1e-9)


def test_copies_of_an_adapter_become_the_adapter():
    one = adapter(4, 5, scale=1.5)
    up, down = merged_units([one, one, one], 4)
    np.testing.assert_allclose((up @ down).numpy(), product(one), atol=1e-5)


def test_with_a_cluster_per_rank_adapters_are_added_and_ranks_beyond_are_zero():
    two = [adapter(3, 6), adapter(3, 7)]
    up, down = merged_units(two, 9)
    wanted = sum(map(product, two)) / np.sqrt(2)
    np.testing.assert_allclose((up @ down).numpy(), wanted, atol=1e-5)
    assert down[6:].abs().max() == up[:, 6:].abs().max() == 0


def test_the_sign_of_a_scale_counts():
    one = adapter(2, 8)
    up, down = merged_units([LowRank(one.base, one.up, one.down, -2.0)], 2)
    np.testing.assert_allclose((up @ down).numpy(), -2 * product(one), atol=1e-5)


def stored(folder: Path, module: str, scale: float) -> LowRank:
    tensors = load_file(folder / "adapter_model.safetensors")
    up, down = (tensors[f"{module}.lora_{factor}.weight"] for factor in "BA")
    return LowRank(torch.zeros(len(up), down.shape[1]), up, down, scale)


def test_the_command_writes_an_adapter_that_peft_loads(tmp_path: Path):
    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"]}
    one, other = (train(tmp_path / name, seed=n, **settings) for n, name in enumerate("ab", 1))
    line = f"library {one.base} a={one.folder} b={other.folder} --count 1 --rank 6 --units"
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(f"{line} --out {tmp_path / 'lego'}"))
    assert ended.value.code == 0
    [folder] = (tmp_path / "lego").iterdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 6)
    from peft import PeftModel

    found = PeftModel.from_pretrained(opened(one.base), str(folder)).eval()
    assert not torch.allclose(logits(found), logits(opened(one.base)), atol=1e-3)
    name = "base_model.model.model.layers.1.mlp.down_proj"
    read = [stored(f.folder, name, scale=2.0) for f in (one, other)]
    wanted = naive(read, clusters(torch.from_numpy(units(read)), 6), 6)
    made = stored(folder, name, scale=1.0)
    np.testing.assert_allclose(product(made), wanted, atol=1e-6)
    assert "a: " in (folder / "library.yaml").read_text()
