"""Shortlists: which merges of a search go on to the select items."""

from __future__ import annotations

from dataclasses import replace

import pytest

from automerge.objective import ItemScores
from automerge.recipe import single
from automerge.study.estimates import Estimates
from automerge.study.selection import shortlisted
from automerge.trial import Measured, Origin, Timings, Trial
from tests.studies import SPACE, toy_plan
from tests.toy import ITEMS, OBJECTIVES

BASELINES: tuple[tuple[Origin, float, float], ...] = (
    ("base", 0.5, 0.5),
    ("source", 0.8, 0.4),
    ("source", 0.4, 0.8),
    ("uniform", 0.6, 0.6),
)


def measured(first: float, second: float, n: int = 40) -> Measured:
    """Scores with these shares of right answers on the first n items of both tasks."""
    scores = {}
    for objective, share in zip(OBJECTIVES, (first, second), strict=True):
        items = ITEMS[objective.task][:n]
        right = round(share * n)
        scores[objective.name] = ItemScores(
            tuple((objective.task, i) for i in items), (1.0,) * right + (0.0,) * (n - right)
        )
    return Measured(scores, Timings(0.0, 0.0, 0.0, 0.0), tokens=1)


def searched(*merges: tuple[float, float]) -> tuple[dict[int, Trial], Estimates]:
    """Base, sources, average and merges, which were all measured on every item."""
    pool = {o.name: [(o.task, i) for i in ITEMS[o.task]] for o in OBJECTIVES}
    estimates = Estimates(OBJECTIVES, (), pool, SPACE)
    trials = {}
    rows = [*BASELINES, *(("sampler", *merge) for merge in merges)]
    for number, (origin, first, second) in enumerate(rows):
        trials[number] = Trial(number, single("base"), origin, f"trial-{number}", None)
        estimates.enter(trials[number], measured(first, second))
    return trials, estimates


def chosen(places: int, *merges: tuple[float, float]) -> list[tuple[float, float]]:
    """The merges that are shortlisted."""
    trials, estimates = searched(*merges)
    found = shortlisted(replace(toy_plan(12), shortlist=places), trials, estimates, ())
    return [merges[number - len(BASELINES)] for number in found]


def test_what_is_worse_than_every_baseline_in_one_objective_adds_nothing() -> None:
    good = (0.7, 0.7), (0.75, 0.6), (0.725, 0.625)
    # Up to the ruined merge, (0.95 − 0.75) · 0.2 = 0.04 would be more than the third of the good
    # ones adds, 0.725 · 0.025 = 0.018.
    extreme, ruined = (0.95, 0.2), (0.0, 0.0)
    assert chosen(3, *good, extreme, ruined) == list(good)


def test_the_best_compromise_has_a_place_before_any_volume() -> None:
    even, corners = (0.65, 0.65), ((0.85, 0.425), (0.425, 0.85))
    assert even in chosen(1, *corners, even)
    assert set(chosen(3, *corners, even)) == {even, *corners}


def test_losses_that_many_errors_worse_are_worse_by_that_many_errors() -> None:
    _, estimates = searched((0.7, 0.7), (0.75, 0.6))
    few = Trial(6, single("base"), "sampler", "trial-6", None)
    estimates.enter(few, measured(1.0, 0.5, n=8))
    (plain,), (cautious,) = estimates.losses([6]), estimates.losses([6], errors=2.0)
    errors = [estimates.values[6][o.name].stderr for o in OBJECTIVES]
    assert min(errors) > 0, "eight right answers of eight leave doubt"
    assert (cautious - plain).tolist() == pytest.approx([2 * error for error in errors])
