"""What a search's stages bought, and what a larger budget would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from automerge.objective import Estimate
from automerge.report.course import MIN_TRIALS, prospect, second_half, stages
from automerge.report.draws import draw_losses, posterior
from automerge.report.html import html_report
from automerge.report.hypervolume import progress
from automerge.report.summary import summarise
from automerge.store.result import StudyResult, TrialResult
from tests.report.factory import OBJECTIVES, study

WHOLE = study(OBJECTIVES[:2], n_trials=1)
MERGE = WHOLE.trials[-1].trial


def course(values: Sequence[Sequence[float]], errors: float) -> StudyResult:
    """A study of merges alone, with these estimates of the first objectives."""
    goals = OBJECTIVES[: len(values[0])]
    trials = tuple(
        TrialResult(
            replace(MERGE, number=i, name=f"t{i}"),
            {},
            {o.name: Estimate(v, errors, 100) for o, v in zip(goals, row, strict=True)},
        )
        for i, row in enumerate(values)
    )
    return replace(WHOLE, objectives=goals, trials=trials, front=())


def simulated(
    seed: int, true_spread: float, error: float, trend: float = 0.0
) -> tuple[StudyResult, float]:
    """A search of one goal, and what its second half truly added."""
    rng = np.random.default_rng(seed)
    true = 0.6 + true_spread * rng.standard_normal(40) + trend * np.arange(40) / 40
    found = course((true + error * rng.standard_normal(40))[:, None].tolist(), error)
    return found, float(true.max() - true[:20].max())


def test_exact_estimates_leave_nothing_uncertain() -> None:
    rows = np.random.default_rng(3).uniform(0.2, 0.8, (30, 2))
    found = second_half(course(rows.tolist(), 0.0))
    history = progress(-rows)
    assert found is not None
    expected = 1 - history[14] / history[29]
    assert (found.low, found.added, found.high) == pytest.approx([expected] * 3)
    alone = second_half(course(rows[:, :1].tolist(), 0.0))
    assert alone is not None
    assert alone.added == pytest.approx(max(rows[:, 0]) - max(rows[:15, 0]))


def test_intervals_cover_what_was_truly_added() -> None:
    """Nominally in 95 of 100 searches; in 120, fewer than 87 % have a chance of 1 in 1000."""
    held = 0
    for seed in range(120):
        result, true = simulated(seed, 0.03, 0.03)
        found = second_half(result)
        assert found is not None
        held += found.low <= true <= found.high
    assert held >= 0.87 * 120


def test_luck_alone_is_not_told_apart() -> None:
    told = [second_half(simulated(seed, 0.0, 0.03)[0]) for seed in range(40)]
    assert sum(found is not None and found.is_told_apart for found in told) <= 4


def test_a_search_that_goes_on_improving_is_told_apart_and_one_that_stopped_is_not() -> None:
    rising, _ = simulated(0, 0.01, 0.01, trend=0.4)
    assert "Twice the budget would bring as much again, or less" in prospect(rising)
    assert "improved maths by" in prospect(rising)
    rows = np.concatenate([np.linspace(0.2, 0.8, 20), np.full(20, 0.5)])
    still = course(np.stack([rows, rows], axis=1).tolist(), 0.001)
    assert "nothing that can be told apart" in prospect(still)
    assert "added 0.0 % of the hypervolume (95 %: 0.0 to 0.0)" in prospect(still)


def test_a_short_search_is_not_judged() -> None:
    rows = [[0.5 + 0.01 * k] for k in range(MIN_TRIALS)]
    assert prospect(course(rows, 0.01))
    assert prospect(course(rows[1:], 0.01)) == ""


def test_draws_have_the_moments_of_a_normal_posterior() -> None:
    """The oracle: conjugate normal algebra, with a variance that so many trials tell exactly."""
    rng = np.random.default_rng(5)
    n = 2000
    x, s = rng.normal(0, 2, (n, 1)), np.full((n, 1), 1.0)
    drawn = posterior(x, s, np.ones(n, dtype=np.intp), 1000)[:, :, 0]
    spread = x.var(ddof=1) - 1
    share = spread / (spread + 1)
    expected = x.mean() + share * (x[:, 0] - x.mean())
    assert np.abs(drawn.mean(axis=0) - expected).max() < 0.2, "five standard errors"
    assert drawn.var(axis=0).mean() == pytest.approx(share, rel=0.02)
    alone = posterior(x, s, np.zeros(n, dtype=np.intp), 1000)[:, :, 0]
    assert np.abs(alone.mean(axis=0) - x[:, 0]).max() < 0.2
    assert alone.var(axis=0).mean() == pytest.approx(1, rel=0.02)


def test_trials_without_an_estimate_of_every_goal_are_left_out() -> None:
    found = study()
    drawn = draw_losses(found.goals, found.trials)
    failed = {t.trial.number for t in found.trials if t.failure is not None}
    assert failed
    assert [t.trial.number for t in drawn.trials] == [
        t.trial.number for t in found.trials if t.trial.number not in failed
    ]


def test_stages_count_every_trial_and_every_front_model_once() -> None:
    result = study()
    found = stages(result)
    assert sum(stage.trials for stage in found) == len(result.trials)
    assert sum(stage.front for stage in found) == len(result.front)
    assert len({stage.name for stage in found}) == len(found)
    assert "What each stage bought" in html_report(summarise(result))
