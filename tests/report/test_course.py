"""What a search's stages bought, and what a larger budget would bring."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.report.course import MIN_TRIALS, gain_of_second_half, prospect, stages
from automerge.report.html import html_report
from automerge.report.summary import summarise
from tests.report.factory import study


@pytest.mark.parametrize("n", [20, 64, 1000])
def test_a_logarithmic_course_gains_as_much_from_twice_its_length(n: int) -> None:
    def reached(k: int) -> float:
        return 1 + math.log(k)

    found = gain_of_second_half([reached(k) for k in range(1, n + 1)])
    assert found == pytest.approx((reached(2 * n) - reached(n)) / reached(n), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=MIN_TRIALS, max_size=60))
def test_what_is_promised_is_a_share(steps: list[float]) -> None:
    course = [math.fsum(steps[: k + 1]) for k in range(len(steps))]
    found = gain_of_second_half(course)
    assert found is None or 0 <= found <= 1


def test_a_flat_course_promises_nothing_and_a_short_one_is_not_judged() -> None:
    assert gain_of_second_half([0.5] * 40) == 0
    assert "would bring little" in prospect([0.5] * 40)
    assert "50 %" in prospect([0.01 * k for k in range(1, 41)])
    assert prospect([0.5] * (MIN_TRIALS - 1)) == ""
    assert prospect([0.0] * 40) == ""


def test_stages_count_every_trial_and_every_front_model_once() -> None:
    result = study()
    found = stages(result)
    assert sum(stage.trials for stage in found) == len(result.trials)
    assert sum(stage.front for stage in found) == len(result.front)
    assert len({stage.name for stage in found}) == len(found)
    assert "What each stage bought" in html_report(summarise(result))
