"""What a search costs, from the pace of one candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from automerge import demo
from automerge.checkpoints import open_checkpoint
from automerge.commands.dry_run import cost_lines
from automerge.config import StudyConfig, load_with_options
from automerge.config.sections import NamedRecipe
from automerge.errors import ConfigError, StateError
from automerge.items import BASELINE_SHARES
from automerge.merging import Need, estimate
from automerge.recipe import BASE, Recipe, RecipeSource, Slice
from automerge.session.cost import Cost, Pace, Range, Work, _earlier, _work, cost, expected_seconds
from automerge.session.open import Session, open_session
from automerge.study import Plan
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
    sweep=(2, 3),
    merges=6,
    select=(100, 30),
    blocks=3,
    test=200,
    explained=3,
)
PACE = Pace(seconds=3.0, merge=1.0, items=20, tokens=0)


def test_without_slopes_only_selection_and_test_are_uncertain() -> None:
    search, later = expected_seconds(WORK, PACE, None, None, 1)
    by_hand = 5 * (1 + 0.1 * 20 * BASELINE_SHARES) + (2 + 25) * 3
    assert search.low == search.high == pytest.approx(by_hand)
    assert later.low == pytest.approx(13 * (1 + 3) + 5 * (1 + 20))
    assert later.high == pytest.approx(13 * (1 + 10 + 2) + 13 * (1 + 20))
    halved = expected_seconds(WORK, PACE, None, None, 2)
    assert [(r.low, r.high) for r in halved] == [
        pytest.approx((r.low / 2, r.high / 2)) for r in (search, later)
    ]


def test_any_mixture_of_trials_with_and_without_slopes_lies_in_the_range() -> None:
    """By hand: the price of a trial is three times its share of the items, and it merges once."""
    slow = Pace(seconds=5.0, merge=1.0, items=7, tokens=0)
    search, later = expected_seconds(WORK, PACE, slow, None, 1)
    first = 5 * (1 + 0.1 * 20 * BASELINE_SHARES) + 2 * 3
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


@pytest.fixture(scope="module")
def costed(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Session, Cost]:
    """The demo's cost; nothing is kept."""
    folder = tmp_path_factory.mktemp("costed")
    config = demo_config(folder)
    session, found = cost(config, lambda _: None)
    assert list(folder.iterdir()) == []
    return config, session, found


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A study of the demo that has begun, and measured nothing."""
    folder = tmp_path_factory.mktemp("begun")
    session = open_session(demo_config(folder), "test")
    with session.store as store:
        with pytest.raises(StateError, match="in use by process"):
            cost(demo_config(folder), lambda _: None)
        for number, first in enumerate(session.plan.first):
            store.ask(Trial(number, first.recipe, first.origin, first.name))
    return folder, session.plan


@pytest.mark.slow
def test_a_candidate_of_the_demo_is_measured(costed: tuple[StudyConfig, Session, Cost]) -> None:
    _, session, found = costed
    assert found.without.items == sum(
        len(docs) for docs in session.plan.draw.draw(session.plan.items.search, 0, 1).values()
    )
    assert 0 < found.without.merge < found.without.seconds
    assert found.with_slopes is not None
    assert 0 < found.with_slopes.items < found.without.items
    assert found.need.gradients > 0
    assert found.model == sum(map(data_bytes, demo.CONFIG.parent.glob("base/*.safetensors")))


@pytest.mark.slow
def test_the_base_is_kept_beside_the_model_as_a_second_head(
    costed: tuple[StudyConfig, Session, Cost], tmp_path: Path
) -> None:
    plain, _, without = costed
    out = str(tmp_path / "run")
    config = plain.model_copy(update={"out": out, "properties": ("kl_to_base",)})
    _, found = cost(config, lambda _: None)
    head = open_checkpoint(Path(config.base)).tensors["model.embed_tokens.weight"]
    assert found.need.live - without.need.live == 4 * head.n_elements


@pytest.mark.slow
def test_memory_is_what_the_worker_plans_also_for_recipes_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may use other methods than the search does, and more layers."""
    planned: list[Need] = []

    def estimating(*given: Any) -> Need:
        planned.append(estimate(*given))
        return planned[-1]

    monkeypatch.setattr("automerge.worker.worker.estimate", estimating)
    config = demo_config(tmp_path)
    sources = tuple(RecipeSource(name, {}) for name in config.models)
    twice = tuple(Slice(dict.fromkeys((BASE, *config.models), span)) for span in ((0, 4), (2, 6)))
    deeper = NamedRecipe(
        name="deeper", plain=Recipe("della", sources, base=BASE, slices=twice).plain()
    )
    search = config.search.model_copy(update={"methods": ("ties",)})
    _, found = cost(
        config.model_copy(update={"recipes": (deeper,), "search": search}), lambda _: None
    )
    assert planned == [found.need]
    assert found.need.more * 6 == 2 * sum(found.need.layers)


@pytest.mark.slow
def test_every_line_fits_into_80_columns(costed: tuple[StudyConfig, Session, Cost]) -> None:
    lines = list(cost_lines(*costed))
    assert max(map(len, lines)) <= 80
    heads = [line.split()[0] for line in lines if not line.startswith(" ")]
    wanted = "study space sampler slopes memory start trial search total disk"
    assert heads[: len(wanted.split())] == wanted.split()


def test_what_a_search_refuses_of_its_folder_is_refused(
    begun: tuple[Path, Plan], tmp_path: Path
) -> None:
    """As `automerge search` does, and with nothing changed on disk."""
    folder, _ = begun
    before = contents(folder)
    with pytest.raises(ConfigError, match="seed was 0 when the study"):
        cost(demo_config(folder, seed="1"), lambda _: None)
    assert contents(folder) == before
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="contains no study"):
        cost(demo_config(tmp_path), lambda _: None)


def test_what_is_done_is_not_paid_for_again(begun: tuple[Path, Plan]) -> None:
    folder, plan = begun
    _, done = _earlier(demo_config(folder))
    assert len(done) == len(plan.first)
    proposed = ((6, 0.0), (7, 1 / 9))
    more = [Trial(n, plan.first[0].recipe, "sampler", f"trial-{n}", {}, s) for n, s in proposed]
    left = _work(demo_config(folder), plan, [*done, *more], slopes=True)
    whole = _work(demo_config(folder), plan, [], slopes=True)
    assert (whole.first, left.first) == (len(plan.first), 0)
    assert whole.others - left.others == pytest.approx(1 + 1 / 3)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
