"""What `search.cheap_first` saves on the demo: two searches that differ in nothing else.

    OMP_NUM_THREADS=1 python -m experiments.cheap_first.measure --budget 40 --items 50

The demo's sorting is generated, its other tasks are multiple choice. A bound on one of these, or on
`kl_to_base`, excludes merges before they generate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import yaml

import automerge
from automerge import demo
from automerge.store.store import Store
from automerge.trial import Measured


def search(out: Path, cheap_first: bool, options: argparse.Namespace) -> dict:
    """Search the demo, and return its front and what its search took."""
    text = demo.CONFIG.read_text(encoding="utf-8").replace("./", f"{demo.folder()}/")
    plain = yaml.safe_load(text)
    plain["search"]["cheap_first"] = cheap_first
    plain["evaluation"]["items_per_candidate"] = options.items
    changes = {
        "out": str(out),
        "properties": ["kl_to_base"],
        "constraints": [options.bound],
        "sampler": options.sampler,
        "slopes": "off",
        "budget": options.budget,
        "seed": options.seed,
        "split": {"max_select": options.final, "max_test": options.final},
        "export": "none",
    }
    study = automerge.search({**plain, **changes})
    with Store(out, write=False) as store:
        measured = [o for o in store.outcomes("search").values() if isinstance(o, Measured)]
    return {
        "front": sorted(member.name for member in study.front),
        "trials": len(measured),
        "left_out": sum(bool(outcome.left_out) for outcome in measured),
        "tokens": sum(outcome.tokens for outcome in measured),
        "generated_items": sum(len(outcome.scores["demo_sorting"].items) for outcome in measured),
        "seconds": round(sum(outcome.timings.total for outcome in measured), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--final", type=int, default=200, help="select and test items per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--bound", default="demo_clock >= best_parent", help="on a cheap objective")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: search(Path(folder) / name, cheap_first, options)
            for name, cheap_first in (("whole", False), ("cheap_first", True))
        }
    print(json.dumps({**vars(options), **found}, indent=1))


if __name__ == "__main__":
    main()
