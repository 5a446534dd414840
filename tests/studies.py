"""Studies on disk, made by the real loop with the toy worker, for tests of what reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from automerge.executors.local import LocalExecutor
from automerge.items import ItemDraw, Sealed, StudyItems
from automerge.methods import METHODS
from automerge.recipe import single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.space import build_space
from automerge.store.record import StudyRecord
from automerge.store.store import Store
from automerge.study import Driver, FirstTrial, Limits, Plan, Snapshot
from automerge.testing.spaces import plain_settings
from automerge.testing.studies import plain_record
from tests.toy import ITEMS, OBJECTIVES, ToyWorker

SPACE = build_space(plain_settings("linear", "task_arithmetic"), "base", ("a", "b"), 4, METHODS)
FIRST = (
    FirstTrial("base", "base", single("base")),
    FirstTrial("a", "source", single("a")),
    FirstTrial("b", "source", single("b")),
    FirstTrial("uniform", "uniform", uniform_average(("a", "b"))),
)


class Unwatched:
    def update(self, snapshot: Snapshot) -> None: ...

    def note(self, message: str) -> None: ...


def toy_plan(budget: int) -> Plan:
    items = StudyItems(ITEMS, ITEMS, Sealed(ITEMS))
    draw = ItemDraw({"first": ("one",), "second": ("two",)}, 8, seed=0)
    return Plan(OBJECTIVES, (), FIRST, items, draw, Limits(budget), 5, 0.02)


def toy_record(plan: Plan) -> StudyRecord:
    return plain_record(plan, ("a", "b"), n_layers=4)


def toy_store(folder: Path, plan: Plan | None = None) -> Store:
    """Open the store of a toy study for writing, begun where it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder, write=True)
    if not store.begun:
        store.begin(toy_record(plan or toy_plan(12)))
    return store


def toy_study(
    folder: Path,
    budget: int = 12,
    *,
    worker: ToyWorker | None = None,
    sampler: str = "random",
) -> Path:
    """Run a whole toy study, or go on with one; the folder."""
    plan = toy_plan(budget)
    with toy_store(folder, plan) as store:
        current = store.study.current
        store.renew(replace(current, config={**current.config, "budget": budget}))
        driver = Driver(
            store,
            plan,
            SPACE,
            SAMPLERS[sampler](SPACE, len(OBJECTIVES), 0, budget),
            lambda: LocalExecutor(lambda: worker or ToyWorker()),
            Unwatched(),
            lambda: False,
        )
        assert driver.run()
        store.renew(replace(store.study.current, state="finished"))
    return folder
