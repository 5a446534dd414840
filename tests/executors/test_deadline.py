"""When a measurement counts as hung."""

from __future__ import annotations

from automerge.executors.deadline import KNOWN, TIMES_MEDIAN, Deadline


def test_nothing_is_late_before_anything_is_known() -> None:
    deadline = Deadline(min_s=1.0)
    for _ in range(KNOWN - 1):
        deadline.saw(100, 50.0)
    assert deadline.limit_s(100) is None


def test_the_limit_grows_with_the_items_and_is_never_too_short() -> None:
    deadline = Deadline(min_s=30.0)
    for took in (10.0, 12.0, 500.0):
        deadline.saw(100, took)
    assert deadline.limit_s(100) == TIMES_MEDIAN * 12.0
    assert deadline.limit_s(1000) == TIMES_MEDIAN * 120.0
    assert deadline.limit_s(1) == 30.0
    assert deadline.limit_s(0) == 30.0


def test_old_measurements_are_forgotten() -> None:
    deadline = Deadline(min_s=0.0)
    for _ in range(300):
        deadline.saw(1, 1.0)
    for _ in range(200):
        deadline.saw(1, 9.0)
    assert deadline.limit_s(1) == TIMES_MEDIAN * 9.0
