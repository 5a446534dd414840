"""Whether a search gains from evidence, alignment and calibration, at equal tokens.

    OMP_NUM_THREADS=1 python -m experiments.evidence.search demo
    OMP_NUM_THREADS=1 python -m experiments.evidence.search text --config runs/zoo/text/config.yaml

The same search runs with and without each. The plain one has `--budget` trials; the others have as
many as leave the same number of tokens in all, what they gather and calibrate on included (a token
that is run backwards too counts three times). Compared are the models to take, on the sealed test
items, which are the same for all. Results go to searched.json, under the zoo's name.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import automerge
from automerge import demo
from automerge.config import load_config
from automerge.evidence.activations import TOKENS
from automerge.objective import Objective, estimates
from automerge.store.store import Store
from automerge.trial import Measured
from experiments.evidence.measure import READ_FROM, Scores, difference, texts

RESULTS = Path(__file__).parent / "searched.json"
METHODS = ("linear", "task_arithmetic")
BACKWARDS = 3
"""Passes forwards that one forwards and backwards costs."""


@dataclass(frozen=True)
class Arm:
    """What a search has that the plain one lacks."""

    methods: tuple[str, ...] = ()
    passes: int = 0
    """Passes forwards over a source's text, before the search."""
    own: bool = True
    """Whether each source has a text of its own task."""
    search: Mapping[str, Any] = field(default_factory=dict)
    align: bool = False

    def tokens_before(self, size: Size) -> int:
        """The tokens that are read before the search; calibration reads with the base too."""
        models = len(load_config(size.config).models) + ("calibrate" in self.search)
        return self.passes * size.tokens * models

    def tokens_each(self, tokens: int) -> int:
        """The tokens that every candidate reads in addition."""
        return min(tokens, TOKENS) if "calibrate" in self.search else 0


ARMS: Mapping[str, Arm] = {
    "plain": Arm(),
    "fisher": Arm(("fisher",), BACKWARDS),
    "regmean": Arm(("regmean",), 1),
    "alignment": Arm(align=True),
    "calibration": Arm(passes=1, own=False, search={"calibrate": "repair"}),
}


@dataclass(frozen=True)
class Found:
    """What one search found: test scores of the base and of the model to take, and its cost."""

    objectives: tuple[Objective, ...]
    base: Scores
    best: Scores
    method: str
    repair: float
    trials: int
    tokens: int


@dataclass(frozen=True)
class Size:
    """A zoo's search, and its size; `items` and `test` are per task, `tokens` per source."""

    config: Path
    budget: int
    items: int
    test: int
    tokens: int
    seed: int


def study(arm: Arm, size: Size, scratch: Path) -> dict[str, Any]:
    """The configuration of one search."""
    zoo = load_config(size.config)
    written = texts(size.config, scratch / "texts")
    own = {str(name): str(path) for name, path in written["own"].items()}
    tasks = scratch / "tasks"
    tasks.mkdir()
    for file in Path(str(zoo.include_path)).iterdir():
        lines = file.read_text("utf-8").splitlines(keepends=True)
        kept = lines[:READ_FROM] if file.suffix == ".jsonl" else lines
        (tasks / file.name).write_text("".join(kept), encoding="utf-8")
    config: dict[str, Any] = {
        "base": zoo.base,
        "models": dict(zoo.models),
        "include_path": tasks,
        "tasks": [task.task for task in zoo.tasks],
        "search": {"methods": [*METHODS, *arm.methods], "depth": {"knots": 2}, **arm.search},
        "slopes": "off",
        "seed": size.seed,
        "budget": size.budget,
        "split": {"max_select": size.test, "max_test": size.test},
        "evaluation": {"items_per_candidate": size.items, "batch_size": 64, "device": "cpu"},
        "executor": "local",
        "export": "none",
        "out": scratch / "run",
    }
    if arm.passes:
        text = own if arm.own else str(written["all"][None])
        config["evidence"] = {"text": text, "tokens": size.tokens, "length": 128}
    if arm.align:
        config["align"] = dict.fromkeys(demo.SOURCES, "git_rebasin")
    return config


def searched(arm: Arm, size: Size) -> Found:
    """Run one search."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        automerge.search(study(arm, size, scratch))
        study_found = automerge.load_study(scratch / "run")
        best = study_found.best
        with Store(scratch / "run", write=False) as store:
            tested = store.outcomes("test")
            ran = [o for o in store.outcomes("search").values() if isinstance(o, Measured)]
            base = next(trial.number for trial in store.trials() if trial.origin == "base")
    if best is None:
        raise SystemExit("no merge reached the front: a larger --budget is needed")
    own, reference = tested[best.trial], tested[base]
    assert isinstance(own, Measured)
    assert isinstance(reference, Measured)
    cost = sum(o.tokens for o in ran) + arm.tokens_before(size)
    cost += sum(arm.tokens_each(size.tokens) for _ in ran)
    recipe, objectives = best.recipe, study_found.result.objectives
    return Found(
        objectives, reference.scores, own.scores, recipe.method, recipe.repair, len(ran), cost
    )


def affordable(arm: Arm, plain: Found, size: Size) -> int:
    """How many trials leave as many tokens in all as the plain search had."""
    left = plain.tokens - arm.tokens_before(size)
    return int(left / (plain.tokens / plain.trials + arm.tokens_each(size.tokens)))


def row(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean gain over seeds, in percent, and half its 95 % interval.

    Items are the same for all seeds, so their doubt is not divided by the number of seeds; that of
    the searches is.
    """
    gains = [-100 * mean for mean, _ in pairs]
    items = statistics.fmean((100 * error) ** 2 for _, error in pairs)
    between = statistics.variance(gains) / len(gains) if len(gains) > 1 else 0.0
    return statistics.fmean(gains), 1.96 * math.sqrt(items + between)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", help="the name its results get")
    parser.add_argument("--config", type=Path, default=demo.CONFIG)
    parser.add_argument("--budget", type=int, default=40, help="trials of the plain search")
    parser.add_argument("--items", type=int, default=60, help="per candidate and task")
    parser.add_argument("--test", type=int, default=400, help="select and test items, per task")
    parser.add_argument("--tokens", type=int, default=2000, help="of text, per source")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arm", action="append", choices=[*ARMS], help="only these, and plain")
    args = parser.parse_args()
    wanted = ["plain", *(n for n in args.arm or ARMS if n != "plain")]
    gains: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted[1:]}
    runs: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        size = Size(args.config, args.budget, args.items, args.test, args.tokens, seed)
        plain = searched(ARMS["plain"], size)
        for name in wanted:
            arm = ARMS[name]
            budget = affordable(arm, plain, size)
            found = plain if name == "plain" else searched(arm, replace(size, budget=budget))
            run = {"arm": name, "seed": seed, "trials": found.trials, "tokens": found.tokens}
            run |= {"method": found.method, "repair": found.repair}
            values = estimates(plain.objectives, found.best)
            run["scores"] = {name: round(value.value, 4) for name, value in values.items()}
            if name != "plain":
                pair = difference(plain.objectives, found.base, found.best, plain.best)
                gains[name].append(pair)
                run["gain"] = [round(-100 * pair[0], 2), round(100 * pair[1], 2)]
            runs.append(run)
            print(run, flush=True)
            save(args, gains, runs)


def save(
    args: argparse.Namespace,
    gains: Mapping[str, list[tuple[float, float]]],
    runs: list[dict[str, Any]],
) -> None:
    """Write what was found so far."""
    table = {name: [round(v, 2) for v in row(pairs)] for name, pairs in gains.items() if pairs}
    settings = {k: v for k, v in vars(args).items() if k not in ("arm", "zoo", "config")}
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    results[args.zoo] = {
        "settings": settings,
        "gain over plain, % of the base's loss": table,
        "runs": runs,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
