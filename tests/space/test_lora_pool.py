"""A pool of adapters of which a few help: the search finds which, from few noisy measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from automerge.checkpoints import open_together
from automerge.merging import ResidentEngine
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource, single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Told
from automerge.space import build_space
from automerge.study.opening import opening
from automerge.study.usual import usual_merges
from tests.checkpoints.adapters import train
from tests.space.test_search_spaces import settings_of

N_ADAPTERS, BUDGET, NOISE = 20, 100, 0.02
HELPFUL = ("a3", "a8", "a14")
NAMES = tuple(f"a{i}" for i in range(N_ADAPTERS))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> ResidentEngine:
    """A base with twenty adapters of rank 2, as PEFT saves them, with random factors."""
    root = tmp_path_factory.mktemp("pool")
    folders = {}
    for i, name in enumerate(NAMES):
        trained = train(root / name, seed=i, r=2, target_modules=["q_proj", "down_proj"])
        folders[name] = trained.folder
        folders["base"] = trained.base
    return ResidentEngine(open_together(folders, "base"))


def merged(engine: ResidentEngine, recipe: Recipe) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for _, tensor in engine.merge(recipe)])


@pytest.mark.slow
def test_the_pool_space_finds_the_adapters_that_help(
    engine: ResidentEngine, tmp_path: Path
) -> None:
    weight = {"weight": Profile.of(0.8)}
    ideal = Recipe("task_arithmetic", tuple(RecipeSource(n, weight) for n in HELPFUL), "base")
    target = merged(engine, ideal)
    scale = float((merged(engine, single("base")) - target).square().sum())
    noise = np.random.default_rng(0)
    settings = settings_of("lora_pool", tmp_path, NAMES)
    space = build_space(settings, "base", NAMES, 2, METHODS)
    sampler = SAMPLERS["auto"](space, 1, 0, BUDGET)
    usual = list(usual_merges(NAMES, "base", settings.methods, 0))
    start = opening(usual, NAMES, "base", 1, 30)
    first = {"base": single("base"), **{n: single(n) for n in NAMES}}
    first["uniform"] = uniform_average(NAMES)
    names: set[str] = set()
    asked: set[str] = set()
    losses: dict[str, tuple[float, ...] | None] = {}
    true: dict[str, tuple[float, Recipe]] = {}
    for number in range(BUDGET):
        params = None
        if first:
            name = next(iter(first))
            recipe = first.pop(name)
        elif (step := start.next(names, asked, losses)) is not None:
            name, recipe = step
        else:
            name = f"trial-{number}"
            params = sampler.ask(number)
            recipe = space.recipe(params)
        names.add(name)
        asked.add(recipe.id)
        true[name] = float((merged(engine, recipe) - target).square().sum()) / scale, recipe
        losses[recipe.id] = (true[name][0] + NOISE * float(noise.standard_normal()),)
        known = space.params(recipe) if params is None else params
        sampler.tell(number, known, Told(losses[recipe.id], (NOISE,)))
    measured = {name: losses[recipe.id] or (np.inf,) for name, (_, recipe) in true.items()}
    loss, recipe = true[min(measured, key=lambda name: measured[name])]
    weights = {s.name: float(s.knobs["weight"].parts[0][1][0]) for s in recipe.sources}
    largest = sorted(weights, key=lambda name: -weights[name])[: len(HELPFUL)]
    assert set(largest) == set(HELPFUL)
    # The greedy soup of the three has weights of a third instead of 0.8, which leaves 0.34.
    assert loss < 0.3
