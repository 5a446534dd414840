"""Score the shipped models and a set of merges, and write `results.json`.

    OMP_NUM_THREADS=1 python -m experiments.demo_zoo.measure

Merges are chosen on the first `SEARCH_ITEMS` items of each task and reported on all the others,
so a reported merge was never chosen for the items it is reported on.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import moocore
import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from automerge import demo
from experiments.demo_zoo.data import SKILLS, Example
from experiments.demo_zoo.score import accuracy

RESULTS = Path(__file__).parent / "results.json"
SEARCH_ITEMS = 400
RANDOM_MERGES = 60
MAX_WEIGHT = 1.5
Weights = dict[str, Tensor]


def load_model(zoo: Path, name: str) -> LlamaForCausalLM:
    """The base or a source in float32, a LoRA adapter folded into its base."""
    folder = zoo / "base" if name == "base" else zoo / "sources" / name
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(zoo / "base", dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).merge_and_unload()


def load_items(zoo: Path, name: str) -> list[Example]:
    lines = (zoo / "tasks" / f"demo_{name}.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [Example(r["prompt"], r["answer"], tuple(r.get("choices", ()))) for r in records]


def weighted(base: Weights, deltas: Mapping[str, Weights], weights: Mapping[str, float]) -> Weights:
    """Task arithmetic with one weight per source."""
    return {
        key: value + sum(weights[name] * delta[key] for name, delta in deltas.items())
        for key, value in base.items()
    }


def ties(base: Weights, deltas: Mapping[str, Weights], density: float, scale: float) -> Weights:
    """TIES: trim each delta to its largest entries, elect a sign, average those that agree."""
    merged: Weights = {}
    for key, value in base.items():
        stack = torch.stack([delta[key] for delta in deltas.values()]).flatten(1)
        kept = max(1, round(density * stack.shape[1]))
        threshold = stack.abs().topk(kept, dim=1).values[:, -1:]
        trimmed = stack * (stack.abs() >= threshold)
        agree = trimmed * (trimmed.sign() == trimmed.sum(0).sign())
        mean = agree.sum(0) / (agree != 0).sum(0).clamp(min=1)
        merged[key] = value + scale * mean.view_as(value)
    return merged


class Scorer:
    """Scores weights on one slice of the items, after rounding them to bfloat16."""

    def __init__(self, zoo: Path) -> None:
        self.model = load_model(zoo, "base")
        self.tokenizer = AutoTokenizer.from_pretrained(zoo / "base")
        self.items = {name: load_items(zoo, name) for name in SKILLS}

    def __call__(self, weights: Weights, chosen: slice) -> dict[str, float]:
        rounded = {key: value.to(torch.bfloat16).float() for key, value in weights.items()}
        self.model.load_state_dict(rounded)
        return {
            name: round(accuracy(self.model, self.tokenizer, SKILLS[name], items[chosen]), 4)
            for name, items in self.items.items()
        }


def mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def hypervolume(points: Sequence[Mapping[str, float]], floor: Mapping[str, float]) -> float:
    """The volume above `floor` that the points dominate."""
    table = np.array([[point[name] for name in floor] for point in points])
    return float(moocore.hypervolume(table, ref=np.array(list(floor.values())), maximise=True))


def front(points: Sequence[Mapping[str, float]]) -> list[int]:
    table = np.array([list(point.values()) for point in points])
    return [int(i) for i in np.flatnonzero(moocore.is_nondominated(table, maximise=True))]


def fixed_merges(base: Weights, deltas: Mapping[str, Weights]) -> dict[str, Weights]:
    merges: dict[str, Weights] = {}
    for scale in (1 / len(deltas), 0.4, 0.6, 0.8, 1.0):
        name = "uniform average" if scale == 1 / len(deltas) else f"task arithmetic {scale:.1f}"
        merges[name] = weighted(base, deltas, dict.fromkeys(deltas, scale))
    for scale in (1.0, 1.4):
        merges[f"TIES density 0.5 scale {scale:.1f}"] = ties(base, deltas, 0.5, scale)
    return merges


def random_merges(
    build: Callable[[Mapping[str, float]], Weights], score: Scorer, names: Sequence[str], seed: int
) -> list[dict[str, dict[str, float]]]:
    """Random weight vectors with their scores on the search items."""
    rng = random.Random(seed)
    found = []
    for _ in range(RANDOM_MERGES):
        weights = {name: round(rng.uniform(0.0, MAX_WEIGHT), 3) for name in names}
        found.append({"weights": weights, "search": score(build(weights), slice(0, SEARCH_ITEMS))})
    return found


def main(zoo: Path) -> None:
    started = time.monotonic()
    score = Scorer(zoo)
    final = slice(SEARCH_ITEMS, None)
    states = {name: load_model(zoo, name).state_dict() for name in ("base", *SKILLS)}
    base = states["base"]
    deltas = {name: {key: states[name][key] - base[key] for key in base} for name in SKILLS}
    models = {name: score(state, final) for name, state in states.items()}
    merges = {n: score(weights, final) for n, weights in fixed_merges(base, deltas).items()}

    drawn = random_merges(lambda w: weighted(base, deltas, w), score, list(deltas), seed=1)
    for index in front([merge["search"] for merge in drawn]):
        weights = weighted(base, deltas, drawn[index]["weights"])
        drawn[index]["final"] = score(weights, final)
    chosen = [merge["final"] for merge in drawn if "final" in merge]
    uniform = merges["uniform average"]
    results = {
        "machine": f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} thread",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "search_items": SEARCH_ITEMS,
        "final_items": len(next(iter(score.items.values()))) - SEARCH_ITEMS,
        "models": models,
        "merges": merges,
        "random_weights": drawn,
        "hypervolume_above_base": {
            "best parent": max(hypervolume([models[name]], models["base"]) for name in SKILLS),
            "uniform average": hypervolume([uniform], models["base"]),
            "front of random weights": hypervolume(chosen, models["base"]),
        },
        "measure_minutes": round((time.monotonic() - started) / 60, 1),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, scores in {**models, **merges}.items():
        print(f"| {name} | " + " | ".join(f"{100 * s:.1f}" for s in scores.values()), end="")
        print(f" | {100 * mean(scores):.1f} |")
    for merge in sorted((m for m in drawn if "final" in m), key=lambda m: -mean(m["final"])):
        print(merge["weights"], merge["final"], f"{100 * mean(merge['final']):.1f}")
    print(results["hypervolume_above_base"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=demo.folder())
    main(parser.parse_args().zoo)
