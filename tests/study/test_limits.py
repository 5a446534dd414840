"""When a search ends."""

from __future__ import annotations

import pytest

from automerge.study.limits import Limits, Spent, allows, expected_trials


def spent(trials: int = 10, items: int = 1000, seconds: float = 100.0, pace: float = 0.1) -> Spent:
    return Spent(trials, items, seconds, pace)


def one() -> int:
    return 1


@pytest.mark.parametrize(
    ("limits", "next_items", "later", "workers", "allowed"),
    [
        (Limits(11), 100, 0, 1, True),
        (Limits(10), 100, 0, 1, False),
        (Limits(None), 100, 10**9, 1, True),
        (Limits(None, items=1100), 100, 0, 1, True),
        (Limits(None, items=1100), 101, 0, 1, False),
        (Limits(None, items=1100), 100, 1, 1, False),
        (Limits(11, items=1000), 100, 0, 1, False),
        (Limits(None, seconds=110), 100, 0, 1, True),
        (Limits(None, seconds=109), 100, 0, 1, False),
        (Limits(None, seconds=110), 100, 100, 1, False),
        (Limits(None, seconds=110), 100, 100, 2, True),
        (Limits(None, seconds=100), 0, 0, 8, False),
    ],
)
def test_the_first_limit_reached_ends_the_search(
    limits: Limits, next_items: int, later: int, workers: int, allowed: bool
) -> None:
    assert allows(limits, spent(), next_items, later, lambda: workers) is allowed


def test_workers_are_asked_for_only_where_time_is_left() -> None:
    def never() -> int:
        raise AssertionError

    assert not allows(Limits(10, seconds=1e9), spent(), 1, 1, never)
    assert not allows(Limits(None, seconds=100), spent(), 1, 1, never)
    assert allows(Limits(None, items=5000), spent(), 1, 1, never)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(50), 50),
        (Limits(50, items=2500), 20),
        (Limits(None, seconds=200), 20),
        (Limits(12, items=2500, seconds=200), 12),
        (Limits(None, items=100), 10),
    ],
)
def test_the_end_is_foretold_from_the_pace(limits: Limits, expected: int) -> None:
    assert expected_trials(limits, spent(), 100, 500) == expected
