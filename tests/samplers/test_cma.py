"""What CMA-ES keeps of its trials, against comparing all with all before each update."""

from __future__ import annotations

import numpy as np
import pytest

from automerge.arrays import Floats
from automerge.pareto import ideal_nadir
from automerge.recipe import single
from automerge.samplers import SAMPLERS, cma
from automerge.samplers.base import Told
from automerge.testing.spaces import losses, space
from automerge.trial import Params

SPACE = space()
TRIALS = 150


class ArchiveComparedAnew:
    """Every success as it came; ideal and nadir points are sought among all of them each time."""

    def __init__(self, n_objectives: int) -> None:
        self.told: list[tuple[cma.Point | None, Floats]] = []

    @property
    def points(self) -> list[cma.Point]:
        return [point for point, _ in self.told if point is not None]

    def add(self, point: cma.Point | None, values: Floats) -> None:
        self.told.append((point, values))

    def rank(self, values: Floats, weights: Floats) -> Floats:
        ideal, nadir = ideal_nadir([told for _, told in self.told])
        span = np.array([b - a if b > a else 1.0 for a, b in zip(ideal, nadir, strict=True)])
        scaled = [weights * (row - ideal) / span for row in values]
        return np.array([row.max() + 0.05 * row.sum() for row in scaled])

    def best(self, weights: Floats) -> list[tuple[cma.Point, float]]:
        placed = [(point, told) for point, told in self.told if point is not None]
        values = self.rank(np.array([told for _, told in placed]), weights)
        ranked = zip(placed, values, strict=True)
        return sorted(((point, value) for (point, _), value in ranked), key=lambda pair: pair[1])


def proposals(n_objectives: int, decimals: int) -> list[Params]:
    """With failures, trials that the space cannot express, and answers in another order."""
    sampler = SAMPLERS["cma"](SPACE, n_objectives, 4, TRIALS)
    sampler.tell(
        -1, None, Told((0.0,) * n_objectives)
    )  # better than any, and no point of the space
    sampler.tell(-2, SPACE.params(single("a")), Told((0.4,) * n_objectives))
    rng = np.random.default_rng(n_objectives)
    asked: list[Params] = []
    pending: list[int] = []
    for number in range(TRIALS):
        asked.append(sampler.ask(number))
        pending.append(number)
        if len(pending) > 8:
            told = pending.pop(int(rng.integers(len(pending))))
            row = losses(SPACE, asked[told], n_objectives)
            noisy = np.round(row + 0.1 * rng.standard_normal(n_objectives), decimals)
            sampler.tell(told, asked[told], None if told % 9 == 8 else Told(tuple(noisy)))
    return asked


@pytest.mark.parametrize("decimals", [1, 12])  # with ties and without
@pytest.mark.parametrize("n_objectives", [1, 2, 4])
def test_proposals_are_those_of_an_archive_compared_with_itself_before_each_update(
    n_objectives: int, decimals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = proposals(n_objectives, decimals)
    monkeypatch.setattr(cma, "Archive", ArchiveComparedAnew)
    assert ours == proposals(n_objectives, decimals)


def test_a_method_that_always_loses_is_still_tried_now_and_then() -> None:
    choice = space("linear", "ties")
    sampler = SAMPLERS["cma"](choice, 1, 0, 40)
    methods = []
    for number in range(700):
        params = sampler.ask(number)
        methods.append(params["method"])
        cost = losses(choice, params, 1)[0]
        sampler.tell(number, params, Told((cost + 10.0 * (params["method"] == "ties"),)))
    assert 1 <= methods[300:].count("ties") <= 40
