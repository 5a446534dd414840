"""One search as automerge does it and one as is common, on items of their own; then the truth.

    OMP_NUM_THREADS=1 python -m experiments.honest_numbers.study 0

Every seed draws 2,000 items a task for its searches and 1,000 others that only the truth is
measured on, so that seeds are independent. Writes runs/honest_numbers/SEED/result.json; a seed that
has one is left alone, an interrupted one goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

import automerge
from automerge import demo
from automerge.checkpoints import whole_digest
from automerge.config import load_with_options
from automerge.estimation import interval
from automerge.evaluation.base import Entry, Settings
from automerge.evaluation.panel import Panel
from automerge.objective import ItemScores, Objective, estimates
from automerge.recipe import Recipe
from automerge.store.read_result import study_objectives
from automerge.store.store import Store
from automerge.trial import BASELINES, Job, Measured
from automerge.worker.worker import MergeWorker, WorkerSpec
from experiments.demo_zoo import build
from experiments.demo_zoo.data import SKILLS

RUNS = Path("runs/honest_numbers")
BUDGET = 60
SHORTLIST = 6
N_TRUTH = 1000
N_FIXED = 100
"""Items a task that every candidate of the common way is scored on."""


def main(seed: int) -> None:
    folder = RUNS / str(seed)
    if (folder / "result.json").is_file():
        return
    searched, truth = folder / "tasks", folder / "truth"
    draw_items(searched, build.ITEMS_PER_TASK, 5000 + seed)
    draw_items(truth, N_TRUTH, 9000 + seed)
    ours = folder / "ours"
    fresh = {"evaluation": {"batch_size": 64, "items_per_candidate": 100}, "shortlist": SHORTLIST}
    search(ours, searched, seed, fresh)
    common = folder / "common"
    share = N_FIXED / build.ITEMS_PER_TASK
    rest = (1 - share) / 2
    split = {"search": share, "select": rest, "test": rest, "max_select": 8, "max_test": 8}
    full = {
        "evaluation": {"batch_size": 64, "items_per_candidate": "full"},
        "split": split,
        "shortlist": 1,
    }
    search(common, searched, seed, full)
    worker = truth_worker(truth, folder / "truth_copy")
    found = {"seed": seed, "ours": read(ours, worker), "common": read_best(common, worker)}
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def draw_items(folder: Path, count: int, seed: int) -> None:
    """Write the demo's tasks with other items."""
    if folder.is_dir():
        return
    for skill in SKILLS.values():
        build.build_task(skill, folder, seed, count)


def search(out: Path, tasks: Path, seed: int, changes: Mapping[str, object]) -> None:
    """The demo's study on other items."""
    text = demo.CONFIG.read_text(encoding="utf-8").replace("./", f"{demo.folder()}/")
    plain = yaml.safe_load(text) | {"include_path": str(tasks.resolve())} | dict(changes)
    config = out.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    options = {"out": out, "seed": seed, "export": "none", "budget": BUDGET}
    automerge.search(load_with_options(config, options))


def truth_worker(tasks: Path, run: Path) -> MergeWorker:
    """Scores recipes on the items that no search saw, from a copy of the tasks."""
    entries = tuple(Entry("lm_eval", name, name) for name in demo.TASKS)
    panel = Panel(entries, Settings(include_path=tasks, batch_size=256))
    panel.keep(run)
    models = {"base": demo.BASE, **demo.SOURCES}
    return MergeWorker(
        WorkerSpec(
            models=models,
            digests={name: whole_digest(folder) for name, folder in models.items()},
            base="base",
            panel=panel,
            run=run,
            dtype="auto",
            device="cpu",
            threads=1,
        )
    )


def read(run: Path, worker: MergeWorker) -> dict[str, object]:
    """What the report says of every front model and baseline, beside the truth."""
    with Store(run, write=False) as store:
        objectives = study_objectives(store)
        trials = store.trials()
        decided = store.study.decided
        parts = {part: store.outcomes(part) for part in ("search", "select", "test")}  # type: ignore[arg-type]
        front = set(decided.front or ())
        numbers = sorted({*front, *decided.baselines})
    rows = []
    for number in numbers:
        test, select = parts["test"][number], parts["select"][number]
        assert isinstance(test, Measured)
        assert isinstance(select, Measured)
        rows.append(
            {
                "name": trials[number].name,
                "merge": trials[number].origin not in BASELINES,
                "on_front": number in front,
                "believed": {o.name: decided.believed[number][o.name].value for o in objectives},
                "select": {k: v.value for k, v in estimates(objectives, select.scores).items()},
                "test": {o.name: plain(test.scores[o.name]) for o in objectives},
                "truth": measure(worker, objectives, trials[number].recipe),
            }
        )
    return {"rows": rows}


def read_best(run: Path, worker: MergeWorker) -> dict[str, object]:
    """The best merge by its mean over all tasks on the items that all were scored on."""
    with Store(run, write=False) as store:
        objectives = study_objectives(store)
        trials = store.trials()
        means = {
            n: {k: v.value for k, v in estimates(objectives, o.scores).items()}
            for n, o in store.outcomes("search").items()
            if isinstance(o, Measured) and trials[n].origin not in BASELINES
        }
    best = max(means, key=lambda n: sum(means[n].values()))
    truth = measure(worker, objectives, trials[best].recipe)
    return {"name": trials[best].name, "claimed": means[best], "truth": truth}


def measure(
    worker: MergeWorker, objectives: tuple[Objective, ...], recipe: Recipe
) -> dict[str, dict[str, object]]:
    """The scores on the items that no search saw."""
    items = {name: tuple(range(N_TRUTH)) for name in demo.TASKS}
    outcome = worker.measure(Job(0, recipe, "test", items))
    assert isinstance(outcome, Measured), outcome
    return {o.name: plain(outcome.scores[o.name]) for o in objectives}


def plain(scores: ItemScores) -> dict[str, object]:
    """A mean with its reported interval, and the 0/1 scores it is the mean of, as one text."""
    found = interval(scores, "mean")
    answers = "".join(str(int(value)) for value in scores.values)
    return {"value": found.value, "low": found.low, "high": found.high, "answers": answers}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(int(argument))
