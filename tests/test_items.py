"""Fresh items for every trial."""

from __future__ import annotations

from automerge.items import ItemDraw

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
