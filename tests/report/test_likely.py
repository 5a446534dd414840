"""How surely members are on the front, and whether constraints are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from automerge.constraint import Constraint
from automerge.objective import Objective
from automerge.report.likely import bounds_on_test, front_probabilities, kept_constraints
from automerge.store.result import StudyResult, TrialResult
from tests.report.factory import OBJECTIVES, PERPLEXITY, study
from tests.report.test_front import scored

ONE = OBJECTIVES[:1]


def members(result: StudyResult, *numbers: int) -> list[TrialResult]:
    return [t for t in result.trials if t.trial.number in numbers]


def test_what_is_better_on_every_item_is_surely_on_the_front() -> None:
    result = scored(study(ONE, n_trials=5), 1, "test", "maths", [1] * 600)
    result = scored(result, 2, "test", "maths", [1, 0] * 300)
    found = front_probabilities(ONE, members(result, 1, 2))
    assert found == {"maths-expert": 1.0, "code-expert": 0.0}


def test_two_that_differ_by_chance_share_the_front() -> None:
    result = scored(study(ONE, n_trials=5), 1, "test", "maths", [1, 0] * 300)
    result = scored(result, 2, "test", "maths", [0, 1] * 300)
    found = front_probabilities(ONE, members(result, 1, 2))
    assert all(0.45 < p < 0.58 for p in found.values())
    assert sum(found.values()) == pytest.approx(1, abs=0.05)  # a tie has both on the front


def test_other_aggregations_are_drawn_again_too() -> None:
    objectives: tuple[Objective, ...] = (*ONE, PERPLEXITY)
    result = study(objectives, n_trials=5)
    found = front_probabilities(objectives, members(result, 0, 1, 2, 3))
    assert all(0 <= p <= 1 for p in found.values())
    assert len(found) == 4


def test_without_common_test_items_nothing_is_said() -> None:
    result = study(ONE, n_trials=5)
    assert front_probabilities(ONE, members(result, 1)) == {}
    untested = replace(result.trials[1], outcomes={})
    assert front_probabilities(ONE, [untested, result.trials[2]]) == {}


@pytest.mark.parametrize(
    ("text", "right", "verdict"),
    [
        ("maths >= 0.5", 400, "kept"),
        ("maths >= 0.5", 200, "missed"),
        ("maths >= 0.5", 305, "unclear"),
        ("maths <= 0.5", 400, "missed"),
        ("maths >= code-expert", 600, "kept"),
        ("maths >= best_parent", 100, "missed"),
        ("maths >= best_parent - 0.9", 100, "kept"),
    ],
)
def test_a_constraint_is_judged_by_the_interval_on_test_items(
    text: str, right: int, verdict: str
) -> None:
    result = replace(study(ONE, n_trials=5), constraints=(Constraint.parse(text),))
    for number in range(4):
        result = scored(result, number, "test", "maths", [0, 1] * 300)
    result = scored(result, 4, "test", "maths", [1] * right + [0] * (600 - right))
    trials = {t.trial.name: t for t in result.trials if "test" in t.outcomes}
    (member,) = members(result, 4)
    trials[member.trial.name] = member
    held = bounds_on_test(result, trials.values())
    (kept,) = kept_constraints(result, held, trials, member)
    assert kept.verdict == verdict
    assert kept.value == pytest.approx(right / 600)
