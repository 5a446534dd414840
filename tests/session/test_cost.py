"""What a search costs, from the pace of one candidate."""

from __future__ import annotations

from pathlib import Path

import pytest

from automerge import demo
from automerge.config import StudyConfig, load_config, load_with_options
from automerge.items import BASELINE_SHARES
from automerge.session.cost import Pace, cost, total_seconds


def config(**more: object) -> StudyConfig:
    plain = {"base": "org/base", "models": {"a": "org/a"}, "tasks": ["arc_easy"]}
    return load_config({**plain, **more})


def data_bytes(file: Path) -> int:
    """The bytes of a safetensors file after its header."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_a_pace_counts_the_merge_once() -> None:
    pace = Pace(seconds=3.0, merge=1.0, items=20, tokens=0)
    assert pace.per_item == 0.1
    assert pace.of(50) == pytest.approx(6.0)
    assert pace.of(20) == pytest.approx(pace.seconds)


def test_seconds_are_those_of_trials_and_of_later_items_shared_by_the_workers() -> None:
    pace = Pace(seconds=3.0, merge=1.0, items=20, tokens=0)
    search, later = total_seconds(config(budget=30), pace, 5, 20, 400, 1)
    by_hand = 5 * (1 + 0.1 * 20 * BASELINE_SHARES) + 25 * 3
    assert search == pytest.approx(by_hand)
    assert later == pytest.approx(40)
    halved = total_seconds(config(budget=30), pace, 5, 20, 400, 2)
    assert halved == pytest.approx((by_hand / 2, 20))


def test_a_limit_of_time_leaves_room_for_selection_and_test() -> None:
    pace = Pace(seconds=3.0, merge=1.0, items=20, tokens=0)
    found = total_seconds(config(budget=1000, max_time="2min"), pace, 5, 20, 400, 1)
    assert found == pytest.approx((80, 40))


def test_a_candidate_of_the_demo_is_measured_and_nothing_is_kept(tmp_path: Path) -> None:
    plain = load_with_options(demo.CONFIG, {"out": str(tmp_path / "run"), "budget": "40"})
    session, found = cost(plain, lambda _: None)
    assert list(tmp_path.iterdir()) == []
    assert found.without.items == sum(
        len(docs) for docs in session.plan.draw.draw(session.plan.items.search, 0, 1).values()
    )
    assert 0 < found.without.merge < found.without.seconds
    assert found.with_slopes is not None
    assert 0 < found.with_slopes.items < found.without.items
    assert found.need.gradients > 0
    assert found.model == sum(map(data_bytes, demo.CONFIG.parent.glob("base/*.safetensors")))
