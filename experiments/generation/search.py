"""A search of the demo, whose sorting is generated, by lm-eval's own generation and by ours.

    OMP_NUM_THREADS=1 python -m experiments.generation.search --budget 10 --items 50

Both searches have the same seed and one worker in this process, and differ in
`evaluation.generator` alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import yaml

import automerge
from automerge import demo
from automerge.store.store import Store
from automerge.trial import GENERATING, PARTS, Measured


def search(out: Path, generator: str, options: argparse.Namespace) -> dict:
    """Search the demo; return what it took, and every score that it measured."""
    text = demo.CONFIG.read_text(encoding="utf-8").replace("./", f"{demo.folder()}/")
    plain = yaml.safe_load(text)
    plain["evaluation"] |= {"items_per_candidate": options.items, "generator": generator}
    changes = {
        "out": str(out),
        "executor": "local",
        "deterministic": True,
        "slopes": "off",
        "budget": options.budget,
        "seed": options.seed,
        "split": {"max_select": options.final, "max_test": options.final},
        "export": "none",
    }
    began, cpu = time.perf_counter(), time.process_time()
    study = automerge.search({**plain, **changes})
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    scores: dict[str, object] = {}
    generating = 0.0
    with Store(out, write=False) as store:
        for part in PARTS:
            for key, outcome in store.outcomes(part).items():
                if isinstance(outcome, Measured):
                    scores[f"{part} {key}"] = outcome.scores
                    share = outcome.notes.get(GENERATING, 0.0)
                    generating += share * outcome.timings.forward
    return {
        "front": sorted(member.name for member in study.front),
        "measured": len(scores),
        "wall_s": round(took, 1),
        "cpu_s": round(cpu, 1),
        "generating_s": round(generating, 1),
        "scores": scores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=10)
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--final", type=int, default=100, help="select and test items per task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: search(Path(folder) / name, name, options) for name in ("static", "continuous")
        }
    static, continuous = (run.pop("scores") for run in found.values())
    print(json.dumps({**vars(options), **found, "same_scores": static == continuous}, indent=1))


if __name__ == "__main__":
    main()
