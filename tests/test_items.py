"""Fresh items for every trial; test items sealed until the front is chosen."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import automerge
from automerge.items import ItemDraw, Sealed

POOL = {"one": tuple(range(100)), "two": tuple(range(0, 200, 2)), "three": (5, 6, 7)}
MEMBERS = {"a": ("one",), "b": ("two", "three"), "c": ("one",)}


def test_every_objective_gets_its_share_and_objectives_of_one_task_the_same_items():
    items = ItemDraw(MEMBERS, 20, seed=0).draw(POOL, 3)
    assert len(items["one"]) == 20
    assert len(items["two"]) + len(items["three"]) == 20
    assert all(
        set(ids) <= set(POOL[task]) and ids == tuple(sorted(ids)) for task, ids in items.items()
    )


def test_trials_get_different_items_that_cover_the_pool_evenly():
    draw = ItemDraw(MEMBERS, 20, seed=0)
    seen = [item for trial in range(200) for item in draw.draw(POOL, trial)["one"]]
    counts = [seen.count(item) for item in range(100)]
    assert min(counts) > 15
    assert max(counts) < 70  # mean 40, standard deviation 5.7


def test_a_draw_depends_on_seed_and_trial_alone():
    first = ItemDraw(MEMBERS, 20, seed=0)
    assert first.draw(POOL, 7) == ItemDraw(MEMBERS, 20, seed=0).draw(POOL, 7)
    assert first.draw(POOL, 7) != first.draw(POOL, 8)
    assert first.draw(POOL, 7) != ItemDraw(MEMBERS, 20, seed=1).draw(POOL, 7)


def test_more_shares_and_full_take_more():
    draw = ItemDraw(MEMBERS, 20, seed=0)
    assert set(draw.draw(POOL, 7)["one"]) < set(draw.draw(POOL, 7, shares=4)["one"])
    assert ItemDraw(MEMBERS, None, seed=0).draw(POOL, 7) == POOL


def test_sealed_items_open_for_a_front_alone():
    sealed = Sealed(POOL)
    with pytest.raises(ValueError, match="sealed until the front is chosen"):
        sealed.open(None)
    assert sealed.open((4, 7)) == POOL
    assert sealed.open(()) == POOL  # nothing was better than the parents, which are tested too


def test_of_sealed_items_only_the_count_can_be_read():
    sealed = Sealed(POOL)
    assert sealed.count == 203
    assert str(sealed) == "Sealed(203 items)"
    public = {name for name in dir(sealed) if not name.startswith("_")}
    assert public == {"count", "open", "for_files"}
    for reads in (iter, len, dict, vars, lambda s: s["one"], lambda s: s.items()):
        with pytest.raises((TypeError, AttributeError, KeyError)):
            reads(sealed)


def test_sealed_items_are_equal_by_content_and_can_be_copied():
    sealed = Sealed(POOL)
    assert sealed == Sealed(dict(POOL)) == copy.deepcopy(sealed)
    assert pickle.loads(pickle.dumps(sealed)) == sealed
    assert sealed != Sealed({**POOL, "three": (5, 6)})


def test_only_the_test_phase_opens_and_only_these_write_them_down():
    root = Path(automerge.__file__).parent
    sources = {str(p.relative_to(root)): p.read_text() for p in root.rglob("*.py")}
    assert {name for name, text in sources.items() if ".test.open(" in text} == {
        "study/selection.py"
    }
    assert {name for name, text in sources.items() if ".for_files()" in text} == {
        "commands/score.py", "session/open.py", "store/check.py", "store/record.py",
    }  # fmt: skip
