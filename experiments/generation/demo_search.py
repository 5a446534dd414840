"""Search the demo with lm-eval's own generation, then with ours: the same trials, in what time?

OMP_NUM_THREADS=1 python -m experiments.generation.demo_search [--budget 12] [--items 150]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import automerge
from automerge import demo
from automerge.store.store import Store
from automerge.trial import Measured

RESULTS = Path(__file__).parent / "demo_search.json"


def search(generator: str, budget: int, items: int, out: Path) -> tuple[dict[str, object], object]:
    """Search; return seconds, tokens and the front, and all search scores by trial."""
    automerge.search(
        {
            "base": str(demo.BASE),
            "models": {name: str(path) for name, path in demo.SOURCES.items()},
            "include_path": str(demo.folder() / "tasks"),
            "tasks": ["demo_sorting", "demo_facts"],
            "evaluation": {"generator": generator, "items_per_candidate": items},
            "slopes": "off",
            "budget": budget,
            "export": "none",
            "out": str(out),
        }
    )
    with Store(out, write=False) as store:
        outcomes = {n: o for n, o in store.outcomes("search").items() if isinstance(o, Measured)}
        front = [
            trial.name for trial in store.trials() if trial.number in store.study.decided.front
        ]
    forward = [outcome.timings.forward for outcome in outcomes.values()]
    notes = {
        note for outcome in outcomes.values() for note in outcome.notes if "generated/" in note
    }
    facts: dict[str, object] = {
        "generator": generator,
        "generated": sorted(notes),
        "trials": len(outcomes),
        "forward_s": sum(forward),
        "front": front,
    }
    scores = {n: {k: v.values for k, v in o.scores.items()} for n, o in outcomes.items()}
    return facts, scores


def main() -> None:
    """Search twice, compare and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--items", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            search(generator, given.budget, given.items, Path(folder) / generator)
            for generator in ("static", "auto")
        ]
    (before, scores), (after, others) = found
    results = {"before": before, "after": after, "same_scores": scores == others}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
