"""What a whole trial costs, from one stored result to the next, beside the forward pass it needs.

    OMP_NUM_THREADS=1 python -m experiments.trial_cost.measure --shape tiny --items 100 --trials 24

A real search with one Ray worker, over random models of the shape and made-up four-way choices, of
60 tokens and four times 25. The floor (`automerge.bench.score.Floor`) runs on as many items before
and after the search, in this process. A trial's time is that between two stored results of
proposals. Prints medians and writes results.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml

from automerge import demo
from automerge.bench.merge import seconds
from automerge.bench.score import Floor
from automerge.bench.score_tasks import Lengths, task_folder
from automerge.bench.shapes import SIZES, empty_model
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.store.store import Store
from automerge.trial import Measured
from automerge.worker.worker import load_model
from experiments.merge_speed.measure import write_models

LENGTHS = Lengths(context=60, choice=25)
FAMILY = "llama"
"""transformers gives others a tokenizer of its own in place of the demo's."""
BATCH = 32
FIRST = 5
"""Base, sources and uniform average."""
WARM = 3
"""Proposals after which nothing is done for the first time."""
FLOORS = 5
RESULTS = Path(__file__).parent / "results.json"


@contextmanager
def models(shape: str) -> Iterator[dict[str, Path]]:
    """Random models as folders, with the demo's tokenizer."""
    with tempfile.TemporaryDirectory() as parent:
        paths = write_models(Path(parent), empty_model(SIZES[shape], FAMILY), 3)
        for path in paths:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (path / name).write_bytes((demo.BASE / name).read_bytes())
        yield {path.name: path for path in paths}


def search(folder: Path, paths: dict[str, Path], tasks: Path, items: int, trials: int) -> Path:
    """Search with one Ray worker; the run folder."""
    sources = dict(list(paths.items())[1:])
    config = {
        "base": str(next(iter(paths.values()))),
        "models": {name: str(path) for name, path in sources.items()},
        "include_path": str(tasks),
        "tasks": ["bench_made"],
        "search": {"methods": ["task_arithmetic", "ties", "dare_ties"], "depth": {"knots": 2}},
        "sampler": "cma",
        "budget": FIRST + trials,
        "split": {"max_select": 8, "max_test": 8},
        "shortlist": 1,
        "export": "none",
        "executor": "ray",
        "workers": 1,
        "evaluation": {"batch_size": BATCH, "items_per_candidate": items, "dtype": "float32"},
        "out": str(folder / "run"),
    }
    path = folder / "automerge.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "automerge.cli", "search", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the search ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--trials", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pool = 4 * given.items
    with models(given.shape) as paths, task_folder(LENGTHS, 0, pool) as (tasks, names):
        base = next(iter(paths.values()))
        model = load_model(base, base, torch.float32).eval().requires_grad_(False)
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        task_set = load_tasks([TaskSpec(name) for name in names], Settings(tasks))
        scorer = LmEvalScorer(model, tokenizer, task_set, BATCH)

        def floor(ids: tuple[int, ...]) -> float:
            requests = scorer.requests({names[0]: ids})
            return seconds(Floor.of(requests, BATCH).run, model)

        ranges = [tuple(range(n, n + given.items)) for n in range(FLOORS + 1)]
        before = [floor(ids) for ids in ranges][1:]
        with tempfile.TemporaryDirectory() as folder:
            run = search(Path(folder), paths, tasks, given.items, given.trials)
            with Store(run, write=False) as store:
                told = {n: at for n, (_, at) in store.times().items() if at is not None}
                outcomes = store.outcomes("search")
        after = [floor(ids) for ids in ranges][1:]
    numbers = range(FIRST + WARM, FIRST + given.trials)
    timings = [found.timings for n in numbers if isinstance(found := outcomes[n], Measured)]
    found = {
        "floor before": statistics.median(before),
        "floor after": statistics.median(after),
        **{
            part: statistics.median(getattr(timing, part) for timing in timings)
            for part in ("merge", "forward", "score", "rest")
        },
        "trial": statistics.median(told[n] - told[n - 1] for n in numbers),
    }
    found["ratio"] = found["trial"] / statistics.mean([found["floor before"], found["floor after"]])
    for name, value in found.items():
        print(f"{name:<13}{value:8.3f}{'' if name == 'ratio' else ' s'}")
    key = f"{given.shape}, {given.items} items"
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, key: found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
