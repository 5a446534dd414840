"""A search begins where merges are good, and never ends behind where it began."""

from __future__ import annotations

import numpy as np
import pytest

from automerge.arrays import Floats
from automerge.methods import METHODS
from automerge.recipe import DEFAULT, single, uniform_average
from automerge.samplers import SAMPLERS, moves
from automerge.samplers.base import Told
from automerge.space import Knots, Space, build_space
from automerge.testing.spaces import plain_settings, space

SOURCES = ("a", "b", "c")
WIDE = build_space(
    plain_settings(
        "task_arithmetic",
        components=(("attention",), ("mlp",), (DEFAULT,)),
        depth=Knots(3),
        bounds={"weight": (-0.5, 1.5)},
        deviation=0.25,
    ),
    "base",
    SOURCES,
    12,
    METHODS,
)
ERROR = 0.01
"""Of what is told; the loss at the start is 0.1, and falls to 0 in the optimum."""


def begin(space: Space, name: str, seed: int, optimum: Floats, budget: int) -> tuple[Floats, int]:
    """Search a noisy bowl from base, sources and their average, with two trials in flight.

    Returns:
        The true losses of all trials, and which of them the errors let us believe is best.
    """
    rng = np.random.default_rng(seed)
    d = len(space.roles)
    sampler = SAMPLERS[name](space, 1, seed, budget)
    true: list[float] = []
    told: list[float] = []
    flight: list[int] = []
    asked: dict[int, Floats] = {}
    average = space.params(uniform_average(SOURCES))
    assert average is not None
    start = space.position(average)[:d]
    width = float(((start - optimum) ** 2).sum()) or 1.0

    def loss(position: Floats) -> float:
        return 0.1 * float(((position[:d] - optimum) ** 2).sum()) / width

    def finish(number: int) -> None:
        true.append(loss(asked[number]))
        told.append(true[-1] + ERROR * rng.standard_normal())
        params = space.at(asked[number])
        sampler.tell(number, params, Told((told[-1],), (ERROR,)))

    first = [single("base"), *map(single, SOURCES), uniform_average(SOURCES)]
    for number, recipe in enumerate(first):
        params = space.params(recipe)
        assert params is not None
        asked[number] = space.position(params)
        finish(number)
    for number in range(len(first), budget):
        asked[number] = space.position(sampler.ask(number))
        flight.append(number)
        if len(flight) == 2:
            finish(flight.pop(0))
    for number in flight:
        finish(number)
    return np.array(true), int(np.argmin(told))


def optimum_near(space: Space, seed: int, distance: float) -> Floats:
    """Return a point some prior standard deviations from the uniform average in every role."""
    average = space.params(uniform_average(SOURCES))
    assert average is not None
    rng = np.random.default_rng([7, seed])
    shifts = distance * space.scales * rng.standard_normal(len(space.roles))
    return space.position(average)[: len(space.roles)] + shifts


@pytest.mark.slow
def test_in_27_dimensions_a_search_ends_ahead_of_its_first_trials() -> None:
    assert len(WIDE.roles) == 27
    gained = []
    for seed in range(5):
        true, chosen = begin(WIDE, "auto", seed, optimum_near(WIDE, seed, 0.7), 40)
        gained.append(true[:5].min() - true[chosen])
    # A third of all there is to gain, and three errors.
    assert np.median(gained) > 0.03
    assert min(gained) > -2 * ERROR


def test_a_search_that_begins_in_the_optimum_stays_near_it() -> None:
    late, chance = [], []
    for seed in range(3):
        optimum = optimum_near(WIDE, seed, 0.0)
        late.append(begin(WIDE, "auto", seed, optimum, 40)[0][-10:])
        chance.append(begin(WIDE, "random", seed, optimum, 40)[0][-10:])
    assert np.median(late) < 0.3 * np.median(chance)


def test_probes_are_about_the_start_in_orthogonal_directions() -> None:
    d = len(WIDE.roles)
    start = WIDE.position(WIDE.params(uniform_average(SOURCES)) or {})
    probes = [moves.probe(WIDE, start, "task_arithmetic", turn, seed=3) for turn in range(32)]
    steps = (np.array(probes)[:, :d] - start[:d]) / WIDE.scales
    sizes = np.abs(steps[:, :1])
    assert (sizes >= moves.PROBES[0]).all()
    assert (sizes <= moves.PROBES[1]).all()
    np.testing.assert_allclose(np.abs(steps) / sizes, 1.0)
    signs = np.sign(steps)
    np.testing.assert_array_equal(signs.T @ signs, 32 * np.eye(d))


def test_a_probe_of_another_method_keeps_the_models_it_can() -> None:
    choice = space("linear", "ties")
    start = choice.position(choice.params(uniform_average(("a", "b"))) or {})
    of_ties = choice.branch(choice.at(moves.probe(choice, start, "ties", 0, seed=0)))
    assert of_ties.method == "ties"
    kept = [b.models for b in choice.branches if b.method == "ties"]
    assert of_ties.models in kept
