"""Which numbers mattered: known exactly where the loss is linear in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.report.html import html_report
from automerge.report.importance import MIN_TRIALS, importance
from automerge.report.summary import summarise
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import Measured, Slope, Timings, Trial
from tests.report.factory import study

RNG = np.random.default_rng(0)
SLOPES = {("a", 0): 3.0, ("a", 1): -1.0, ("b", 0): 0.0, ("b", 1): 0.5}


def linear(n: int, loss: float = 2.0, noise: float = 0.0) -> StudyResult:
    """Trials whose loss has the same slopes everywhere, and weights that vary."""
    trials = []
    for number, row in enumerate(RNG.normal(0.5, [0.1, 0.2, 0.3, 0.4], (n, 4)).tolist()):
        sources = (
            RecipeSource("a", {"weight": Profile.of(row[:2])}),
            RecipeSource("b", {"weight": Profile.of(row[2:])}),
        )
        recipe = Recipe("task_arithmetic", sources, "base")
        by = {c: SLOPES[c.source or "", c.knot] + noise * RNG.normal() for c in recipe.coordinates}
        slopes = {
            "one": Slope(loss, by),
            "ten": Slope(10 * loss, {c: 10 * s for c, s in by.items()}),
        }
        outcome = Measured({}, Timings(), slopes=slopes)
        trial = Trial(number, recipe, "sampler", f"trial-{number}")
        trials.append(TrialResult(trial, {"search": outcome}))
    return replace(study(), trials=tuple(trials), front=())


def weights(result: StudyResult) -> np.ndarray:
    return np.array(
        [
            [k for s in t.trial.recipe.sources for k in s.knobs["weight"].parts[0][1]]
            for t in result.trials
        ]
    )


def test_effects_are_slopes_times_what_numbers_varied_by_as_shares_of_the_loss() -> None:
    result = linear(12)
    first, second = importance(result)
    spread = weights(result).std(axis=0, ddof=1)
    assert (first.source, first.knob, first.trials) == ("a", "weight", 12)
    assert first.effect == pytest.approx((3 * spread[0] + spread[1]) / 2)
    assert second.effect == pytest.approx(0.5 * spread[3] / 2)
    assert first.low == pytest.approx(first.effect) == first.high


def test_noise_widens_intervals_and_few_trials_say_nothing() -> None:
    (exact, _), (noisy, _) = importance(linear(12)), importance(linear(12, noise=1.0))
    assert noisy.high - noisy.low > 0.01 > exact.high - exact.low
    assert importance(linear(MIN_TRIALS))
    assert importance(linear(MIN_TRIALS - 1)) == ()
    assert importance(study()) == ()


def test_the_report_shows_it() -> None:
    whole = study()
    shown = html_report(
        summarise(replace(whole, trials=(*whole.trials, *_later(linear(12), whole))))
    )
    assert "What mattered, by slopes" in shown
    assert "a weight" in shown
    assert "What mattered, by slopes" not in html_report(summarise(whole))


def _later(result: StudyResult, whole: StudyResult) -> list[TrialResult]:
    """The trials, numbered after those of another study, with that one's scores."""
    scores = whole.trials[0].outcomes["search"]
    assert isinstance(scores, Measured)
    found = []
    for i, t in enumerate(result.trials):
        own = t.outcomes["search"]
        assert isinstance(own, Measured)
        number = len(whole.trials) + i
        trial = replace(t.trial, number=number, name=f"trial-{number}")
        found.append(TrialResult(trial, {"search": replace(scores, slopes=own.slopes)}))
    return found
