"""Studies on disk, made by the real loop with the toy worker, for tests of what reads them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from automerge.executors.local import LocalExecutor
from automerge.items import ItemDraw
from automerge.methods import METHODS
from automerge.recipe import single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.space import build_space
from automerge.store.store import Store
from automerge.study import Driver, FirstTrial, Limits, Plan, Snapshot
from automerge.testing.spaces import plain_settings
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
    items = {"search": ITEMS, "select": ITEMS, "test": ITEMS}
    draw = ItemDraw({"first": ("one",), "second": ("two",)}, 8, seed=0)
    return Plan(OBJECTIVES, (), FIRST, items, draw, Limits(budget), 5, 0.02)


def toy_meta(name: str = "toy", budget: int = 12) -> dict[str, object]:
    """What a session puts into the store before the loop begins, as far as readers ask for it."""
    return {
        "config": {"name": name, "budget": budget, "seed": 0, "models": {"a": "./a", "b": "./b"}},
        "objectives": [asdict(objective) for objective in OBJECTIVES],
        "n_layers": 4,
        "sampler": "random",
        "warnings": [],
        "provenance": {
            "versions": {},
            "models": [],
            "tasks": {},
            "machine": "a toy",
            "started": "2026-01-01T00:00:00+00:00",
            "command": "automerge search",
            "score_commands": [],
        },
    }


def toy_study(
    folder: Path, budget: int = 12, *, worker: ToyWorker | None = None, sampler: str = "random"
) -> Path:
    """Run a whole toy study, or go on with one; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Store(folder, write=True) as store:
        known = ("provenance",) if store.meta("provenance") else ()
        store.put_meta(**{k: v for k, v in toy_meta(budget=budget).items() if k not in known})
        driver = Driver(
            store,
            toy_plan(budget),
            SPACE,
            SAMPLERS[sampler](SPACE, len(OBJECTIVES), 0, budget),
            lambda: LocalExecutor(lambda: worker or ToyWorker()),
            Unwatched(),
            lambda: False,
        )
        assert driver.run()
        store.put_meta(state="finished")
    return folder
