"""One search of the first-front experiment, or the linear sweep it is compared with.

    python -m experiments.first_front.study cma 0
    python -m experiments.first_front.study sweep 0

Writes runs/first_front/NAME; an interrupted study goes on when the command is given again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

import automerge
from automerge import demo
from automerge.config import load_with_options
from automerge.config.recipe_file import write_recipe

BUDGET = 200
SWEEP = tuple(round(0.1 * step, 1) for step in range(1, 16))
"""Weights given to all sources alike: base + w Σ task vectors."""

RUNS = Path("runs/first_front")


def sweep_recipes(folder: Path) -> list[Path]:
    """One recipe file a weight of the sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {"base": str(demo.BASE), **{k: str(v) for k, v in demo.SOURCES.items()}}
    paths = []
    for weight in SWEEP:
        knobs = {"weight": automerge.Profile.of(weight)}
        sources = tuple(automerge.RecipeSource(name, knobs) for name in demo.SOURCES)
        recipe = automerge.Recipe("task_arithmetic", sources, base="base")
        paths.append(folder / f"sweep-{weight}.yaml")
        write_recipe(recipe, models, paths[-1])
    return paths


def main(name: str, seed: int) -> None:
    options: dict[str, object] = {"out": RUNS / f"{name}-{seed}", "seed": seed, "export": "none"}
    config = demo.CONFIG
    if name == "sweep":
        recipes = sweep_recipes(RUNS / "recipes")
        config = RUNS / "sweep.yaml"
        listed = "".join(f"\n  - {path.resolve()}" for path in recipes)
        text = demo.CONFIG.read_text(encoding="utf-8").replace("./", f"{demo.folder()}/")
        config.write_text(f"{text}\nshortlist: {len(SWEEP)}\nrecipes:{listed}\n", encoding="utf-8")
        options |= {"sampler": "random", "budget": len(demo.SOURCES) + 2 + len(SWEEP)}
    else:
        options |= {"sampler": name, "budget": BUDGET}
    automerge.search(load_with_options(config, options), console=Console(highlight=False))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
