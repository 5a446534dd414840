"""Compare the finished runs of the experiment: python -m experiments.first_front.summarise

Writes results.json: hypervolume on the sealed test items of each run's front, of parents, of the
uniform average and of the best sweep, in one box for all; optimism; and seconds a trial.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np

from automerge import pareto
from automerge.objective import estimates, losses
from automerge.store.read_result import study_objectives
from automerge.store.store import Store
from automerge.trial import Measured
from experiments.first_front.study import RUNS

PHASES = ("merge", "forward", "score", "rest", "total")


def rows(store: Store, part: str, numbers: list[int]) -> list[tuple[float, ...]]:
    objectives = study_objectives(store)
    outcomes = store.outcomes(part)  # type: ignore[arg-type]
    found = (outcomes[n] for n in numbers)
    return [
        losses(objectives, estimates(objectives, o.scores))
        for o in found
        if isinstance(o, Measured)
    ]


def read(run: Path) -> dict[str, object]:
    with Store(run, write=False) as store:
        trials = store.trials()
        front = store.study.decided.front or ()
        merged = [n for n in front if trials[n].origin in ("sampler", "recipe")]
        parents = [t.number for t in trials if t.origin == "source"]
        uniform = [t.number for t in trials if t.origin == "uniform"]
        search, test = rows(store, "search", merged), rows(store, "test", merged)
        best_mean = min((float(np.mean(row)) for row in test), default=float("nan"))
        seconds = [o.timings for o in store.outcomes("search").values() if isinstance(o, Measured)]
        return {
            "front": test,
            "parents": rows(store, "test", parents),
            "uniform": rows(store, "test", uniform),
            "best_mean": -100 * best_mean,
            "best_parent_mean": -100 * min(float(np.mean(r)) for r in rows(store, "test", parents)),
            "uniform_mean": -100 * float(np.mean(rows(store, "test", uniform))),
            "optimism": 100 * float(np.mean(np.array(test) - np.array(search))),
            "median_seconds": {
                phase: round(statistics.median(getattr(t, phase) for t in seconds), 3)
                for phase in PHASES
            },
        }


def main() -> None:
    runs = {p.name: read(p) for p in sorted(RUNS.iterdir()) if finished(p)}
    everything = np.array(
        [
            row
            for run in runs.values()
            for key in ("front", "parents", "uniform")
            for row in run[key]
        ]  # type: ignore[attr-defined]
    )
    reference = pareto.reference_point(everything)
    box = pareto.hypervolume(everything.min(axis=0)[None], reference)
    results = {}
    for name, run in runs.items():
        shares = {
            key: round(pareto.hypervolume(np.array(run[key]), reference) / box, 4)
            for key in ("front", "parents", "uniform")
        }
        plain = {k: run[k] for k in run if k not in ("front", "parents", "uniform")}
        results[name] = {"hypervolume": shares, "front_models": len(run["front"])} | {  # type: ignore[arg-type]
            k: round(v, 2) if isinstance(v, float) else v for k, v in plain.items()
        }
    path = Path(__file__).parent / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, result in results.items():
        print(name, json.dumps(result))


def finished(run: Path) -> bool:
    if not (run / "study.sqlite").is_file():
        return False
    with Store(run, write=False) as store:
        return store.study.current.state == "finished"


if __name__ == "__main__":
    main()
