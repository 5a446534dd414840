"""mergekit-evolve on a zoo's search items, its best merge measured as those of a cell are.

    python -m venv PEERS && PEERS/bin/pip install torch transformers==4.57.3 lm_eval==0.4.9.1 \\
        "mergekit[evolve]==0.1.4" ray
    python -m experiments.search_quality.peers --zoo text=FOLDER --python PEERS/bin/python \\
        --candidates 100 --items 100 --seed 0

One number is optimised, as mergekit-evolve does: the sum of the tasks' metrics, with the sign that
makes them higher when better. The genome is what the `components` space has: task arithmetic, two
groups of layers with interpolated weights, and separate weights for attention, feed-forward and the
rest. It starts from equal weights and asks for a GPU, which Ray is told there is: nothing uses it.
Merging is in memory: on disk, mergekit 0.1.4 calls a function that PyTorch lacks for processors,
and lm_eval 0.4.9.1 refuses the device it is given. All candidates are scored on the same first
items of the search part, which is fixed. A row with the sampler `mergekit-evolve` is appended to
results/cells.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from automerge.config import StudyConfig
from automerge.config.recipe_file import read_recipe
from automerge.session.open import Session
from automerge.trial import Job, Measured
from experiments.rows import append
from experiments.search_quality.cell import Cell, opened, settings, zoo_config
from experiments.search_quality.run import RESULTS, compared
from experiments.search_quality.truth import Truth

RECEIVED = re.compile(r"^Received (\d+) genotypes", re.MULTILINE)
"""How many candidates a generation has: whole ones are scored, so more than were asked for."""
LAUNCH = """
import sys, ray
ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False)
from mergekit.scripts.evolve import main
main(sys.argv[1:])
"""
"""mergekit-evolve on a machine without a GPU."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--python", type=Path, required=True, help="of the peers' environment")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--items", type=int, default=100, help="of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/search_quality"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    name, _, folder = given.zoo.partition("=")
    cell = Cell(name, "components", "random", given.candidates, given.seed)
    run = given.runs.absolute() / f"mergekit-evolve-{name}-{given.candidates}-{given.seed}"
    config = settings(cell, zoo_config(name, {name: Path(folder)}), run / "study")
    with opened(config) as (session, executor):
        write_tasks(session, config, run / "tasks", given.items)
        evolution = run / "evolve.yaml"
        copies = copy_models(config.references, run / "models")
        evolution.write_text(yaml.safe_dump(genome(session, copies)), encoding="utf-8")
        seconds = evolve(given.python, evolution, run, given.candidates, given.seed)
        best = read_recipe(run / "storage" / "best_config.yaml").among(copies)
        items = {t: ids[: given.items] for t, ids in session.plan.items.search.items()}
        executor.submit(Job(-1, best, "search", items))
        finished = executor.next_finished(1.0)
        assert finished is not None
        assert isinstance(finished[1], Measured)
        scored = sum(map(int, RECEIVED.findall((run / "log.txt").read_text(encoding="utf-8"))))
        spent = scored * finished[1].tokens
        truth = Truth(session, executor, given.runs / f"truth-{name.replace('/', '-')}")
        named = replace(cell, sampler="mergekit-evolve")
        append(compared(named, truth, [best], scored, spent, seconds), given.out)


def write_tasks(session: Session, config: StudyConfig, folder: Path, n_items: int) -> None:
    """Copies of the tasks that hold the first search items alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assert config.include_path is not None
    for task, ids in session.plan.items.search.items():
        source = Path(config.include_path) / f"{task}.jsonl"
        lines = source.read_text(encoding="utf-8").splitlines()
        kept = [json.dumps(json.loads(lines[i])) for i in ids[:n_items]]
        (folder / f"{task}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
        plain = yaml.safe_load(source.with_suffix(".yaml").read_text(encoding="utf-8"))
        plain["dataset_kwargs"] = {"data_files": {"test": str(folder / f"{task}.jsonl")}}
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")


def copy_models(references: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Copies whose tokenizer has the name that transformers 4 knows it by."""
    copies = {}
    for name, reference in references.items():
        shutil.copytree(reference, folder / name, dirs_exist_ok=True)
        file = folder / name / "tokenizer_config.json"
        plain = json.loads(file.read_text(encoding="utf-8"))
        plain["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(plain), encoding="utf-8")
        copies[name] = str(folder / name)
    return copies


def genome(session: Session, models: Mapping[str, str]) -> Mapping[str, Any]:
    """The file mergekit-evolve reads; the base is among the models, by that name."""
    objectives = session.plan.objectives
    return {
        "genome": {
            "models": [folder for name, folder in models.items() if name != "base"],
            "base_model": models["base"],
            "merge_method": "task_arithmetic",
            "layer_granularity": session.space.n_layers // 2,
            "normalize": False,
            "allow_negative_weights": True,
            "smooth": True,
            "filters": ["self_attn", "mlp"],
        },
        "tasks": [
            {
                "name": o.task,
                "metric": f"{o.metric.partition(',')[0]},none",
                "weight": 1.0 if o.direction == "maximize" else -1.0,
            }
            for o in objectives
        ],
        "apply_chat_template": False,
        "fewshot_as_multiturn": False,
    }


def evolve(python: Path, evolution: Path, run: Path, candidates: int, seed: int) -> float:
    """Run mergekit-evolve to its end; wall seconds."""
    start = time.monotonic()
    with (run / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(
            [
                *(str(python.absolute()), "-c", LAUNCH, str(evolution)),
                *("--storage-path", str(run / "storage"), "--task-search-path", str(run / "tasks")),
                *("--max-fevals", str(candidates), "--random-seed", str(seed)),
                *("--no-merge-cuda", "--no-reshard", "--no-save-final-model", "--no-wandb"),
                *("--batch-size", "64", "--in-memory"),
            ],
            cwd=run,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
            check=True,
        )
    return time.monotonic() - start


if __name__ == "__main__":
    main()
