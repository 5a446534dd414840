"""Where gains came from: exact where the loss is quadratic and its slopes are those of the ends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.report.gains import gain_rows, weight_coordinates
from automerge.report.html import html_report
from automerge.report.summary import summarise
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import Measured, Slope, Timings, Trial
from tests.report.factory import study

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(8, 8))
CURVED, LEAST = ROOT @ ROOT.T, RNG.normal(size=8)
EQUAL = np.full(8, 0.5)


def loss(at: np.ndarray) -> float:
    return float(20 + (at - LEAST) @ CURVED @ (at - LEAST) / 2)


def recipe(at: np.ndarray) -> Recipe:
    rows = at.reshape(2, 2, 2).tolist()
    sources = tuple(
        RecipeSource(
            name,
            {"weight": Profile((("mlp", tuple(parts[0])), ("default", tuple(parts[1]))))},
        )
        for name, parts in zip(("a", "b"), rows, strict=True)
    )
    return Recipe("task_arithmetic", sources, "base")


def measured(number: int, at: np.ndarray) -> TrialResult:
    own = recipe(at)
    slope = dict(zip(weight_coordinates(own), (CURVED @ (at - LEAST)).tolist(), strict=True))
    outcome = Measured({}, Timings(), slopes={"goal": Slope(loss(at), slope)})
    return TrialResult(Trial(number, own, "sampler", f"trial-{number}"), {"search": outcome})


def result(*trials: TrialResult) -> StudyResult:
    return replace(study(), trials=trials, n_layers=5)


def total(rows) -> float:
    return math.fsum(value for row in rows for value in row.values)


def test_the_gains_of_a_quadratic_loss_sum_to_its_fall() -> None:
    """The trapezoidal rule is exact for the integral of a linear slope."""
    ends, far = [EQUAL, LEAST / 2], LEAST + 7
    found = result(*(measured(i, at) for i, at in enumerate([far, *ends])))
    rows = gain_rows(found, recipe(LEAST / 2))
    unit = [(loss(at), CURVED @ (at - LEAST)) for at in ends]
    mean = np.mean([slope / size for size, slope in unit], axis=0)
    by_hand = (EQUAL - LEAST / 2) * mean
    assert total(rows) == pytest.approx(by_hand.sum(), rel=1e-12)
    assert [(row.source, row.selector) for row in rows] == [
        ("a", "mlp"),
        ("a", "rest"),
        ("b", "mlp"),
        ("b", "rest"),
    ]
    for row, pair in zip(rows, by_hand.reshape(4, 2), strict=True):
        assert len(row.values) == 5
        assert math.fsum(row.values) == pytest.approx(pair.sum(), rel=1e-12)


def test_gains_lie_where_the_knots_are() -> None:
    at = EQUAL.copy()
    at[0] = 3.0
    rows = gain_rows(result(measured(0, at)), recipe(at))
    first, *others = rows
    assert all(value == 0 for row in others for value in row.values)
    assert np.all(np.diff(np.abs(first.values)) < 0), "the first knot is the first layer's"
    assert first.values[-1] == 0


def test_nothing_is_said_without_slopes_of_the_same_numbers() -> None:
    at = LEAST / 2
    assert gain_rows(study(), recipe(at)) == ()
    other = replace(recipe(at), method="dare_ties")
    assert gain_rows(result(measured(0, at)), other) == ()


def test_the_report_shows_gains_of_front_models_with_slopes() -> None:
    whole = study()
    merges = [t for t in whole.trials if t.trial.number in whole.front and t.trial.recipe.base]
    own = next(t for t in merges if weight_coordinates(t.trial.recipe))
    outcome = own.outcomes["search"]
    assert isinstance(outcome, Measured)
    wanted = weight_coordinates(own.trial.recipe)
    slope = {"goal": Slope(2.0, dict.fromkeys(wanted, 0.1))}
    told = replace(own, outcomes={**own.outcomes, "search": replace(outcome, slopes=slope)})
    trials = tuple(told if t is own else t for t in whole.trials)
    shown = html_report(summarise(replace(whole, trials=trials)))
    assert "gain over equal weights" in shown
    assert "gain over equal weights" not in html_report(summarise(whole))
