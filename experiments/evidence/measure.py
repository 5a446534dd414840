"""What evidence adds to plain averaging and to sums of task vectors.

    OMP_NUM_THREADS=1 python -m experiments.evidence.measure demo
    OMP_NUM_THREADS=1 python -m experiments.evidence.measure text \\
        --config runs/zoo/text/config.yaml --tokens 5000 --items 100

The first documents of each task are scored; evidence is gathered on the text of others, from
`READ_FROM` on. Losses are relative to the base's and averaged over tasks; differences to the
average of the sources are paired by document. Results go to results.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from automerge import demo
from automerge.config import StudyConfig, load_config
from automerge.methods import METHODS
from automerge.objective import ItemScores, Objective, estimates
from automerge.recipe import BASE, Profile, Recipe, RecipeSource, single
from automerge.session.gathering import GatherSettings, gather
from automerge.trial import Job, Measured
from experiments.estimation.table import open_demo

RESULTS = Path(__file__).parent / "results.json"
READ_FROM, READ = 1000, 150
"""The first document of each task that is read for evidence, and how many are."""
SUM = 0.4
"""The weight of every task vector where task vectors are added, as is usual for several."""

Scores = Mapping[str, ItemScores]


def texts(config: Path, folder: Path) -> dict[str, dict[str | None, Path]]:
    """Write the documents kept for evidence, one file each; per source, and all together."""
    study = load_config(config)
    tasks = Path(str(study.include_path))
    own: dict[str | None, Path] = {}
    mixed = folder / "text" / "all"
    mixed.mkdir(parents=True)
    for task in study.tasks:
        lines = (tasks / f"{task.task}.jsonl").read_text("utf-8").splitlines()
        source = next(name for name in study.models if name in task.task)
        place = own[source] = folder / "text" / source
        place.mkdir(parents=True)
        for n, line in enumerate(lines[READ_FROM:][:READ]):
            item = json.loads(line)
            gap = "" if str(item.get("prompt", "")).endswith("=") else " "
            text = item["text"] if "text" in item else f"{item['prompt']}{gap}{item['answer']}"
            (place / f"{n:04d}.txt").write_text(text, encoding="utf-8")
            (mixed / f"{n:04d}-{source}.txt").write_text(text, encoding="utf-8")
    return {"own": own, "all": {None: mixed}}


def recipes(
    names: tuple[str, ...], evidence: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> dict[str, Recipe]:
    """What is compared, by the name it has in the table."""

    def made(method: str, weight: float = 1.0, text: str = "own", **knobs: float) -> Recipe:
        sources = tuple(RecipeSource(name, {"weight": Profile.of(weight)}) for name in names)
        found = {kind: evidence[text][kind] for kind in METHODS[method].needs}
        given = {k.replace("scale", "lambda"): Profile.of(v) for k, v in knobs.items()}
        base = BASE if METHODS[method].anchored else None
        return Recipe(method, sources, base, given, evidence=found)

    return {
        "average": made("linear"),
        "fisher": made("fisher"),
        "fisher, all texts": made("fisher", text="all"),
        "regmean": made("regmean"),
        "regmean, α = 1": made("regmean", off_diagonal=1.0),
        "regmean, all texts": made("regmean", text="all"),
        "mats": made("mats"),
        "task_arithmetic": made("task_arithmetic", SUM),
        "tatr": made("tatr", SUM),
        "tatr, 10 %": made("tatr", SUM, ratio=0.1),
        "ubgm": made("ubgm", SUM),
    }


def difference(
    objectives: tuple[Objective, ...], base: Scores, one: Scores, other: Scores
) -> tuple[float, float]:
    """Return the mean relative loss of one less that of another, and its standard error."""
    total = variance = 0.0
    reference = estimates(objectives, base)
    values = [estimates(objectives, scores) for scores in (one, other)]
    for objective in objectives:
        scale = lost(objective, reference[objective.name].value)
        losses = [lost(objective, value[objective.name].value) for value in values]
        total += (losses[0] - losses[1]) / scale
        influences = [
            influence(scores[objective.name], loss)
            for scores, loss in zip((one, other), losses, strict=True)
        ]
        moved = influences[0] - influences[1]
        variance += float(moved.var(ddof=1)) / len(moved) / scale**2
    return total / len(objectives), math.sqrt(variance) / len(objectives)


def lost(objective: Objective, value: float) -> float:
    """The error of an accuracy; bits per byte as they are."""
    return 1 - value if objective.direction == "maximize" else value


def influence(scores: ItemScores, loss: float) -> np.ndarray:
    """Return each document's part in a loss that is proportional to a mean or a ratio of sums."""
    values = np.array(scores.values)
    weights = np.ones(len(values)) if scores.weights is None else np.array(scores.weights)
    ratio = values.sum() / weights.sum()
    unit = loss / ratio if scores.weights is not None else -1.0
    return unit * (values - ratio * weights) / weights.mean()


def compare(name: str, config: Path, tokens: int, n_items: int) -> None:
    """Score fixed recipes."""
    study = load_config(config)
    names = tuple(study.models)
    settings = GatherSettings(tokens, 128, "cpu")
    own = tuple(dict.fromkeys(kind for method in METHODS.values() for kind in method.needs))
    kinds = {"own": own, "all": ("input_gram", "squared_gradient")}
    with tempfile.TemporaryDirectory() as scratch:
        folders = folders_of(study)
        evidence = {
            which: {
                kind: {
                    n: file.digest
                    for n, file in gather(folders, names, kind, paths, settings).items()
                }
                for kind in kinds[which]
            }
            for which, paths in texts(config, Path(scratch)).items()
        }
        tasks = Path(scratch) / "tasks"
        shutil.copytree(str(study.include_path), tasks)
        for file in tasks.glob("*.jsonl"):
            lines = file.read_text("utf-8").splitlines(keepends=True)
            file.write_text("".join(lines[:n_items]), encoding="utf-8")
        cut = study.model_copy(update={"include_path": str(tasks)})
        worker, _, objectives = open_demo(cut, Path(scratch) / "opened")
        items = {o.task: tuple(range(n_items)) for o in objectives}
        found: dict[str, Scores] = {}
        for label, recipe in {BASE: single(BASE), **recipes(names, evidence)}.items():
            outcome = worker.measure(Job(0, recipe, "search", items))
            assert isinstance(outcome, Measured), outcome
            found[label] = outcome.scores
            save(name, label, summary(objectives, found, label))


def folders_of(study: StudyConfig) -> dict[str, Path]:
    """The folders of base and sources."""
    from automerge.session.preflight import open_models

    models = open_models(study.references, BASE, study.locate)
    return {name: model.path for name, model in models.folders.items()}


def summary(
    objectives: tuple[Objective, ...], found: Mapping[str, Scores], label: str
) -> dict[str, Any]:
    """Say how far a model is ahead of the base, and of the average, in percent of base losses."""
    ahead = {}
    for other in (BASE, "average"):
        if other in found and label != other:
            mean, error = difference(objectives, found[BASE], found[label], found[other])
            ahead[f"less than {other}"] = [round(-100 * mean, 3), round(100 * error, 3)]
    values = {
        o.name: e.value
        for o, e in zip(objectives, estimates_of(objectives, found[label]), strict=True)
    }
    return {"scores": {n: round(v, 4) for n, v in values.items()}, **ahead}


def estimates_of(objectives: tuple[Objective, ...], scores: Scores) -> list[Any]:
    found = estimates(objectives, scores)
    return [found[o.name] for o in objectives]


def save(*keys_and_value: Any) -> None:
    """Set one entry of results.json, under a path of keys."""
    *keys, value = keys_and_value
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    place = results
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(keys[-1], value, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--config", type=Path, default=demo.CONFIG)
    parser.add_argument("--tokens", type=int, default=10_000, help="read for evidence, per source")
    parser.add_argument("--items", type=int, default=300, help="scored, per task")
    args = parser.parse_args()
    compare(args.name, args.config, args.tokens, args.items)


if __name__ == "__main__":
    main()
