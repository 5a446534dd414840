"""Where gains came from: exact where losses are polynomials along the line from equal weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.report.gains import LINE, gains, weight_coordinates
from automerge.report.html import html_report
from automerge.report.summary import summarise
from automerge.store.result import TrialResult
from automerge.study.explanation import on_line
from automerge.trial import Measured, Slope, Timings, Trial
from tests.report.factory import study

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(8, 8))
CURVED, LEAST = ROOT @ ROOT.T, RNG.normal(size=8)
EQUAL = np.full(8, 0.5)


def quadratic(at: np.ndarray) -> tuple[float, np.ndarray]:
    return float(20 + (at - LEAST) @ CURVED @ (at - LEAST) / 2), CURVED @ (at - LEAST)


def separate(at: np.ndarray) -> tuple[float, np.ndarray]:
    """A sum of quartics, one per number: what each contributes is known exactly."""
    return float(5 + ((at - LEAST) ** 4).sum()), 4 * (at - LEAST) ** 3


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


def numbers(own: Recipe) -> np.ndarray:
    knots = [k for s in own.sources for _, part in s.knobs["weight"].parts for k in part]
    return np.array(knots)


def explained(
    at: np.ndarray, *losses: Callable[[np.ndarray], tuple[float, np.ndarray]]
) -> TrialResult:
    own, found = recipe(at), []
    for t in LINE:
        there = numbers(on_line(own, t))
        slopes = {}
        for i, loss in enumerate(losses):
            value, slope = loss(there)
            by = dict(zip(weight_coordinates(own), slope.tolist(), strict=True))
            slopes[f"goal {i}"] = Slope(value, by)
        found.append(Measured({}, Timings(), slopes=slopes))
    return TrialResult(Trial(0, own, "sampler", "trial-0"), {}, explained=tuple(found))


def test_the_line_leads_from_equal_weights_to_the_merges() -> None:
    own = recipe(LEAST)
    assert on_line(own, 1.0) == own
    assert np.array_equal(numbers(on_line(own, 0.0)), EQUAL)
    assert numbers(on_line(own, 0.5)) == pytest.approx((EQUAL + LEAST) / 2)


def test_contributions_of_a_quadratic_loss_sum_to_its_fall() -> None:
    at = LEAST + 0.3
    found = gains(explained(at, quadratic), 5)
    assert found is not None
    assert found.holds
    fall = (quadratic(EQUAL)[0] - quadratic(at)[0]) / quadratic(EQUAL)[0]
    assert found.measured == pytest.approx(fall, rel=1e-12)
    assert found.explained == pytest.approx(fall, rel=1e-12)
    assert [(row.source, row.selector) for row in found.rows] == [
        ("a", "mlp"),
        ("a", "rest"),
        ("b", "mlp"),
        ("b", "rest"),
    ]


def test_each_contribution_is_the_fall_of_its_own_term() -> None:
    """The oracle: with a sum of terms, switching one weight at a time says what each is worth."""
    at = LEAST - 0.4
    found = gains(explained(at, separate), 5)
    assert found is not None
    start = separate(EQUAL)[0]
    for pair, row in zip(np.arange(8).reshape(4, 2), found.rows, strict=True):
        switched = EQUAL.copy()
        switched[pair] = at[pair]
        own = (start - separate(switched)[0]) / start
        assert math.fsum(v or 0.0 for v in row.values) == pytest.approx(own, rel=1e-9)


def test_objectives_count_by_their_losses_at_equal_weights() -> None:
    def ten_times(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = quadratic(at)
        return 10 * value, 10 * slope

    one = gains(explained(LEAST, quadratic), 5)
    both = gains(explained(LEAST, quadratic, ten_times), 5)
    assert one is not None
    assert both is not None
    assert both.measured == pytest.approx(one.measured)
    assert both.explained == pytest.approx(one.explained)


def test_gains_lie_where_the_knots_are() -> None:
    at = EQUAL.copy()
    at[0] = 3.0
    found = gains(explained(at, quadratic), 5)
    assert found is not None
    first, *others = found.rows
    assert all(value == 0 for row in others for value in row.values)
    assert np.all(np.diff(np.abs(np.array(first.values, dtype=float))) < 0)
    assert first.values[-1] == 0, "the first knot is the first layer's"


def test_slopes_that_do_not_explain_what_was_measured_are_not_drawn() -> None:
    def cliff(at: np.ndarray) -> tuple[float, np.ndarray]:
        """Flat, but for a step that no slope sees."""
        near = np.allclose(at, LEAST)
        return (1.0 if near else 2.0), np.zeros(8)

    found = gains(explained(LEAST, cliff), 5)
    assert found is not None
    assert not found.holds
    assert (found.measured, found.explained) == (0.5, 0)


def test_nothing_is_said_without_slopes_at_every_point() -> None:
    whole = explained(LEAST, quadratic)
    assert gains(replace(whole, explained=whole.explained[:2]), 5) is None
    assert gains(replace(whole, explained=()), 5) is None


def test_the_report_shows_how_far_the_map_explains_the_gain() -> None:
    whole = study()
    merges = [t for t in whole.trials if t.trial.number in whole.front and t.trial.recipe.base]
    own = next(t for t in merges if weight_coordinates(t.trial.recipe))
    wanted = weight_coordinates(own.trial.recipe)

    def shown(end: float) -> str:
        """The report, with losses from 2 to `end` and slopes that say 1.9."""
        length = sum(abs(1 / 3 - w) for w in _knots(own.trial.recipe))
        rows = zip(wanted, _knots(own.trial.recipe), strict=True)
        by = {c: (-0.1 if w > 1 / 3 else 0.1) / length for c, w in rows}
        told = replace(
            own,
            explained=tuple(
                Measured({}, Timings(), slopes={"goal": Slope(2 + t * (end - 2), by)}) for t in LINE
            ),
        )
        trials = tuple(told if t is own else t for t in whole.trials)
        return html_report(summarise(replace(whole, trials=trials)))

    agreeing = shown(1.9)
    assert "gain over equal weights" in agreeing
    assert "5.00 % lower than with equal weights; the map" in agreeing
    assert "adds up to +5.00 %" in agreeing
    cliff = shown(1.0)
    assert "gain over equal weights" not in cliff
    assert "add up to +5.00 %, which does not explain it" in cliff
    assert "equal weights" not in html_report(summarise(whole))


def _knots(own: Recipe) -> list[float]:
    return [k for s in own.sources for _, part in s.knobs["weight"].parts for k in part]
