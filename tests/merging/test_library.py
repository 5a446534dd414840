"""A pool of adapters as a library: clusters, folders, and what PEFT's Arrow makes of them."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import ArrowConfig, create_arrow_model
from safetensors.numpy import load_file

from automerge import cli
from automerge.checkpoints import open_together
from automerge.errors import PreflightError
from automerge.merging.library import clustered, cosines, factors, library
from tests.checkpoints.adapters import logits, opened, train

KINDS = ("left", "right", "apart")
SETTINGS = {"r": 4, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> dict[str, Path]:
    """Six adapters: three random ones, and one near each of them, of other ranks and scales."""
    root = tmp_path_factory.mktemp("pool")
    found = {}
    for seed, kind in enumerate(KINDS, start=1):
        one = train(root / kind, seed=seed, **SETTINGS)
        found["base"], found[kind] = one.base, one.folder
        scaled = {**SETTINGS, "lora_alpha": 16, "alpha_pattern": {"down_proj": 2}}
        other = train(root / f"{kind}-2", seed=seed, **scaled)
        noise = np.random.default_rng(seed)
        weights = load_file(other.folder / "adapter_model.safetensors")
        # Another basis of the same factors, and a little noise: s B R⁻¹ · R A / s.
        for name in [name for name in weights if ".lora_A." in name]:
            turn = noise.normal(size=(4, 4)) + 3 * np.eye(4)
            up = name.replace("lora_A", "lora_B")
            weights[name] = (turn @ weights[name]).astype("float32")
            shrunk = scale_of(one.folder, name) / scale_of(other.folder, name)
            weights[up] = (shrunk * weights[up] @ np.linalg.inv(turn)).astype("float32")
            weights[up] += 0.01 * noise.normal(size=weights[up].shape).astype("float32")
        write(other.folder, weights)
        found[f"{kind}-2"] = other.folder
    return found


def scale_of(folder: Path, tensor: str) -> float:
    """The scale of an adapter's product in the module of one of its tensors."""
    config = json.loads((folder / "adapter_config.json").read_text())
    module = tensor.split(".")[-3]
    return config["alpha_pattern"].get(module, config["lora_alpha"]) / config["r"]


def write(folder: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def of_pool(pool: dict[str, Path]):
    checkpoints = open_together(pool, "base")
    return factors({n: c for n, c in checkpoints.items() if n != "base"}, checkpoints["base"])


def change(folder: Path) -> np.ndarray:
    """All of an adapter's products, one after the other, naively."""
    weights = load_file(folder / "adapter_model.safetensors")
    downs = sorted(name for name in weights if ".lora_A." in name)
    parts = [
        scale_of(folder, name) * weights[name.replace("lora_A", "lora_B")] @ weights[name]
        for name in downs
    ]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float64)


def test_cosines_are_those_of_the_products(pool):
    names = [name for name in pool if name != "base"]
    vectors = np.stack([change(pool[name]) for name in names])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = of_pool(pool)
    ours = cosines([found[name] for name in names]).numpy()
    np.testing.assert_allclose(ours, vectors @ vectors.T, atol=1e-6)


def test_adapters_that_do_the_same_are_one_cluster(pool):
    found = library(of_pool(pool), 3)
    assert [set(cluster.names) for cluster in found] == [{k, f"{k}-2"} for k in KINDS]
    for cluster in found:
        one, other = (change(pool[name]) for name in cluster.names)
        units = [own / np.linalg.norm(own) for own in (one, other)]
        centre = sum(units) / np.linalg.norm(sum(units))
        wanted = np.mean([own @ centre for own in units])
        assert cluster.cosine == pytest.approx(wanted, abs=1e-6)


def best_of_all(found: torch.Tensor, count: int) -> float:
    """The largest sum of cosines with the centres over all divisions into `count` clusters."""
    best = 0.0
    for labels in itertools.product(range(count), repeat=len(found)):
        if len(set(labels)) == count:
            groups = [[i for i, own in enumerate(labels) if own == k] for k in range(count)]
            best = max(best, sum(float(found[g][:, g].sum()) ** 0.5 for g in groups))
    return best


def test_every_point_is_nearest_to_its_own_centre_and_clusters_are_near_the_best():
    """Σ over members of ⟨x, c⟩/‖c‖ is ‖Σ x‖; here with 7 random points in 3 dimensions.

    k-means ends where no point would move, which need not be the best of all divisions.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        points = torch.randn(7, 3, generator=generator, dtype=torch.float64)
        points /= points.norm(dim=1, keepdim=True)
        alike = points @ points.T
        for count in (1, 2, 3):
            groups = clustered(alike, count)
            assert sorted(itertools.chain(*groups)) == list(range(7))
            centres = torch.stack([points[g].sum(0) / points[g].sum(0).norm() for g in groups])
            nearest = (points @ centres.T).argmax(1).tolist()
            assert all(nearest[point] == k for k, g in enumerate(groups) for point in g)
            reached = sum(float(alike[g][:, g].sum()) ** 0.5 for g in groups)
            assert reached >= 0.97 * best_of_all(alike, count)


def test_as_many_clusters_as_points_even_where_points_are_the_same():
    groups = clustered(torch.ones(4, 4, dtype=torch.float64), 3)
    assert len(groups) == 3
    assert sorted(itertools.chain(*groups)) == [0, 1, 2, 3]


def test_directions_that_are_left_out_do_not_count():
    """Points on two axes but for small and opposite parts on a third, which alone decides there."""
    points = torch.tensor([[1, 0, 0.3], [1, 0, -0.3], [0, 1, 0.3], [0, 1, -0.3]]).double()
    points /= points.norm(dim=1, keepdim=True)
    assert clustered(points @ points.T, 2, dimensions=2) == [[0, 1], [2, 3]]


def run(line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line))
    assert ended.value.code == 0


def test_peft_routes_between_the_clusters(pool, tmp_path):
    named = " ".join(f"{name}={path}" for name, path in pool.items() if name != "base")
    run(f"library {pool['base']} {named} --count 3 --rank 5 --out {tmp_path / 'library'}")
    folders = sorted((tmp_path / "library").iterdir())
    assert [folder.name for folder in folders] == ["cluster-1", "cluster-2", "cluster-3"]
    for folder, kind in zip(folders, KINDS, strict=True):
        wanted = (change(pool[kind]) + change(pool[f"{kind}-2"])) / 2
        # The best rank 5 leaves out what noise adds beyond rank 4.
        assert np.linalg.norm(change(folder) - wanted) < 0.05 * np.linalg.norm(wanted)
        ranks = {n.shape[0] for k, n in weights(folder).items() if "lora_A" in k}
        assert ranks == {5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = ArrowConfig(top_k=2, router_temperature=0.5, rng_seed=0)
        model = create_arrow_model(opened(pool["base"]), list(map(str, folders)), config).eval()
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    entered: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, args, out: entered.extend((args[0], out)))
    found = logits(model)
    assert not torch.allclose(found, logits(opened(pool["base"])), atol=1e-3)
    states, out = (own[0].detach().numpy().astype(np.float64) for own in entered)
    plain = states @ layer.base_layer.weight.detach().numpy().T.astype(np.float64)
    changes = [products(folder, "layers.1.self_attn.q_proj") for folder in folders]
    wanted = plain + naive_arrow(states, changes)
    # PEFT's fifteen power iterations reach directions to within (σ₂/σ₁)³⁰.
    np.testing.assert_allclose(out, wanted, atol=2e-3 * np.abs(wanted).max())


def test_the_documented_commands_make_and_load_a_library(pool, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/adapters.md").read_text(encoding="utf-8")
    section = page.split("## A library of adapters")[1].split("\n## ")[0]
    lines, [code] = (
        re.findall(rf"^```{kind}\n(.*?)^```", section, re.M | re.S) for kind in ("text", "python")
    )
    monkeypatch.chdir(tmp_path)
    places = {"BASE": "base", "maths": "left", "code": "left-2", "chat": "apart", "prose": "right"}
    for name, own in places.items():
        (tmp_path / name).symlink_to(pool[own])
    for line in lines:
        run(line.removeprefix("automerge "))
    assert [folder.name for folder in (tmp_path / "lego").iterdir()] == ["cluster-1"]
    made: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "docs/adapters.md", "exec"), made)
    assert len(made["folders"]) == 2
    assert made["model"].active_adapter == "arrow_router"


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter_model.safetensors")


def products(folder: Path, module: str) -> np.ndarray:
    own = {name: tensor for name, tensor in weights(folder).items() if module in name}
    [down], [up] = ([t for n, t in own.items() if part in n] for part in ("lora_A", "lora_B"))
    return (up @ down).astype(np.float64)


def naive_arrow(states: np.ndarray, changes: list[np.ndarray]) -> np.ndarray:
    """Per token: the two adapters along whose leading right singular vector it is longest, by the
    softmax of these lengths at temperature 0.5 (Ostapenko et al. 2024, section 4)."""
    directions = np.stack([np.linalg.svd(own)[2][0] for own in changes])
    out = []
    for state in states:
        lengths = np.abs(directions @ state)
        chosen = np.argsort(-lengths)[:2]
        shares = np.exp(lengths[chosen] / 0.5)
        shares /= shares.sum()
        out.append(sum(s * changes[n] @ state for n, s in zip(chosen, shares, strict=True)))
    return np.stack(out)


def test_adapters_that_cannot_be_routed_are_refused(pool, tmp_path):
    other = train(tmp_path / "other", seed=8, r=4, target_modules=["v_proj"])
    with pytest.raises(PreflightError, match="adapters of a library change the same matrices"):
        of_pool({"base": pool["base"], "left": pool["left"], "other": other.folder})
    saved = train(tmp_path / "saved", seed=9, **SETTINGS, modules_to_save=["lm_head"])
    with pytest.raises(PreflightError, match=r"made of LoRA factors alone; it changes lm_head"):
        of_pool({"base": pool["base"], "saved": saved.folder})
    with pytest.raises(PreflightError, match="'base2' is not made of LoRA factors alone: leave"):
        of_pool({"base": pool["base"], "base2": pool["base"]})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--count 7", "--count: expected a number from 1 to 6, that of the adapters; got 7"),
        ("--count 2", "is not empty; name another folder with --out"),
    ],
)
def test_what_cannot_be_made_is_refused(more, message, pool, tmp_path, capsys):
    if "empty" in message:
        (tmp_path / "file").touch()
    named = " ".join(f"{name}={path}" for name, path in pool.items() if name != "base")
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(f"library {pool['base']} {named} {more} --out {tmp_path}"))
    assert ended.value.code == (3 if "empty" in message else 2)
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["library", str(pool["base"]), str(pool["left"]), "--count", "1", "--out", "x"])
    assert "a library has 2 adapters or more; got 1" in capsys.readouterr().err
