"""What a search costs, from the pace of one candidate."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from automerge import demo
from automerge.commands.dry_run import print_cost
from automerge.config import StudyConfig, load_with_options
from automerge.errors import ConfigError, StateError
from automerge.items import BASELINE_SHARES
from automerge.session.cost import Pace, Range, Work, _work, cost, expected_seconds
from automerge.session.open import open_session
from automerge.trial import Trial


def data_bytes(file: Path) -> int:
    """The bytes of a safetensors file after its header."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_a_pace_counts_the_merge_once() -> None:
    pace = Pace(seconds=3.0, merge=1.0, items=20, tokens=0)
    assert pace.per_item == 0.1
    assert pace.of(50) == pytest.approx(6.0)
    assert pace.of(20) == pytest.approx(pace.seconds)


WORK = Work(
    first=5,
    others=25,
    per_trial=20,
    baselines=4,
    merges=6,
    select=(100, 30),
    blocks=3,
    test=200,
    explained=3,
)
PACE = Pace(seconds=3.0, merge=1.0, items=20, tokens=0)


def test_without_slopes_only_selection_and_test_are_uncertain() -> None:
    search, later = expected_seconds(WORK, PACE, None, None, 1)
    by_hand = 5 * (1 + 0.1 * 20 * BASELINE_SHARES) + 25 * 3
    assert search.low == search.high == pytest.approx(by_hand)
    assert later.low == pytest.approx(10 * (1 + 3) + 5 * (1 + 20))
    assert later.high == pytest.approx(10 * (1 + 10 + 2) + 10 * (1 + 20))
    halved = expected_seconds(WORK, PACE, None, None, 2)
    assert [(r.low, r.high) for r in halved] == [
        pytest.approx((r.low / 2, r.high / 2)) for r in (search, later)
    ]


def test_any_mixture_of_trials_with_and_without_slopes_lies_in_the_range() -> None:
    """By hand: the price of a trial is three times its share of the items, and it merges once."""
    slow = Pace(seconds=5.0, merge=1.0, items=7, tokens=0)
    search, later = expected_seconds(WORK, PACE, slow, None, 1)
    first = 5 * (1 + 0.1 * 20 * BASELINE_SHARES)
    for whole, third, ninth in ((25, 0, 0), (0, 25, 0), (0, 0, 75), (10, 8, 21)):
        assert whole + third + ninth / 3 == 25
        seconds = whole * 3 + third * slow.of(20 / 3) + ninth * slow.of(20 / 9)
        assert search.low - 1e-9 <= first + seconds <= search.high + 1e-9
    assert search.high == pytest.approx(first + 75 * slow.of(20 / 9))
    plain = expected_seconds(WORK, PACE, None, None, 1)[1]
    assert later.low == plain.low
    assert later.high == pytest.approx(plain.high + 3 * slow.of(20 / 3))


def test_a_limit_of_time_leaves_room_for_selection_and_test() -> None:
    most = expected_seconds(WORK, PACE, None, None, 1)[1].high
    search, later = expected_seconds(WORK, PACE, None, most + 40, 1)
    assert (search.low, search.high) == pytest.approx((40, 40))
    assert later.high == most
    assert expected_seconds(WORK, PACE, None, 1.0, 1)[0] == Range(0, 0)


def demo_config(folder: Path, **more: str) -> StudyConfig:
    return load_with_options(demo.CONFIG, {"out": str(folder / "run"), "budget": "40", **more})


def test_a_candidate_of_the_demo_is_measured_and_nothing_is_kept(tmp_path: Path) -> None:
    session, found = cost(demo_config(tmp_path), lambda _: None)
    assert list(tmp_path.iterdir()) == []
    assert found.without.items == sum(
        len(docs) for docs in session.plan.draw.draw(session.plan.items.search, 0, 1).values()
    )
    assert 0 < found.without.merge < found.without.seconds
    assert found.with_slopes is not None
    assert 0 < found.with_slopes.items < found.without.items
    assert found.need.gradients > 0
    assert found.model == sum(map(data_bytes, demo.CONFIG.parent.glob("base/*.safetensors")))


def test_every_line_fits_into_80_columns(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=200)
    print_cost(demo_config(tmp_path), screen)
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split()[0] for line in lines if not line.startswith(" ")]
    wanted = "study space sampler slopes memory start trial search total disk"
    assert heads[: len(wanted.split())] == wanted.split()


def test_what_a_search_refuses_of_its_folder_is_refused(tmp_path: Path) -> None:
    """As `automerge search` does, and with nothing changed on disk."""
    run = tmp_path / "run"
    begun = open_session(demo_config(tmp_path), "test")
    try:
        with pytest.raises(StateError, match="in use by process"):
            cost(demo_config(tmp_path), lambda _: None)
    finally:
        begun.store.close()
    before = {file: file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()}
    with pytest.raises(ConfigError, match="seed was 0 when the study"):
        cost(demo_config(tmp_path, seed="1"), lambda _: None)
    assert {f: f.read_bytes() for f in sorted(run.rglob("*")) if f.is_file()} == before
    shutil.rmtree(run)
    run.mkdir()
    (run / "notes.txt").touch()
    with pytest.raises(ConfigError, match="contains no study"):
        cost(demo_config(tmp_path), lambda _: None)


def test_what_is_done_is_not_paid_for_again(tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    begun = open_session(config, "test")
    plan = begun.plan
    with begun.store as store:
        for number, first in enumerate(plan.first):
            store.ask(Trial(number, first.recipe, first.origin, first.name))
        done = [
            *store.trials(),
            *(
                Trial(n, plan.first[0].recipe, "sampler", "t", {}, s)
                for n, s in ((6, 0.0), (7, 1 / 9))
            ),
        ]
    left = _work(config, plan, done, slopes=True)
    whole = _work(config, plan, [], slopes=True)
    assert (whole.first, left.first) == (len(plan.first), 0)
    assert whole.others - left.others == pytest.approx(1 + 1 / 3)
