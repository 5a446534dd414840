"""Score random merges of a zoo on the same items, and keep scores and margins.

    OMP_NUM_THREADS=1 python -m experiments.margins.table FOLDER [CONFIG] [--merges N] [--items N]

CONFIG is a study's configuration, by default the demo's. Base, sources and uniform average come
first, then uniform draws from the configuration's search space. Only objectives of multiple choice
are scored. The table in FOLDER grows by chunks; an interrupted call goes on when it is given again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from automerge import demo
from automerge.config import load_config
from automerge.recipe import BASE, Recipe, single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.space import Space
from automerge.trial import Job, Measured, Params
from experiments.estimation.table import open_demo, position

CHUNK = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Merges:
    """What is known of each merge: (merges, objectives, items), and (merges, coordinates).

    `positions` are NaN where the space cannot express a merge; the first `firsts` are base, sources
    and uniform average. Merges that could not be scored are left out.
    """

    names: tuple[str, ...]
    scores: Floats
    margins: Floats
    positions: Floats
    firsts: int


def read(folder: Path) -> Merges:
    """Read a table."""
    chunks = [np.load(path) for path in sorted(folder.glob("chunk-*.npz"))]
    scores, margins, positions, firsts = (
        np.concatenate([chunk[name] for chunk in chunks])
        for name in ("scores", "margins", "positions", "firsts")
    )
    good = np.isfinite(margins).all(axis=(1, 2))
    names = tuple(map(str, chunks[0]["names"]))
    return Merges(names, scores[good], margins[good], positions[good], int(firsts[good].sum()))


def proposals(space: Space) -> Iterator[tuple[Recipe, Params | None, bool]]:
    """Base, sources and uniform average, then draws without end."""
    for recipe in (single(BASE), *map(single, space.sources), uniform_average(space.sources)):
        yield recipe, space.params(recipe), True
    sampler = SAMPLERS["random"](space, 1, 0, 0)
    number = 0
    while True:
        params = sampler.ask(number)
        yield space.recipe(params), params, False
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("config", type=Path, nargs="?", default=demo.CONFIG)
    parser.add_argument("--merges", type=int, default=200)
    parser.add_argument("--items", type=int, default=800)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config = load_config(args.config)
    with tempfile.TemporaryDirectory() as scratch:
        worker, space, objectives = open_demo(config, Path(scratch) / "tasks")
        tasks = dict.fromkeys(o.task for o in objectives)
        few = dict.fromkeys(tasks, (0,))
        outcome = worker.measure(Job(0, single(BASE), "search", few))
        assert isinstance(outcome, Measured), outcome
        chosen = [o for o in objectives if o.name in outcome.margins]
        items = {o.task: tuple(range(args.items)) for o in chosen}
        done = sum(len(np.load(p)["scores"]) for p in args.folder.glob("chunk-*.npz"))
        rows: list[dict[str, object]] = []
        width = len(space.roles) + space.codes.shape[1]
        for number, (recipe, params, is_first) in enumerate(proposals(space)):
            if number < done:
                continue
            if number >= args.merges or len(rows) == CHUNK:
                columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
                names = np.array([o.name for o in chosen])
                part = args.folder / "part.npz"
                np.savez_compressed(part, names=names, **columns)  # type: ignore[arg-type]
                part.rename(args.folder / f"chunk-{number:06d}.npz")
                rows = []
                print(number, flush=True)
            if number >= args.merges:
                return
            outcome = worker.measure(Job(0, recipe, "search", items))
            found = np.full((2, len(chosen), args.items), np.nan)
            if isinstance(outcome, Measured):
                for at, objective in enumerate(chosen):
                    for kind, table in enumerate((outcome.scores, outcome.margins)):
                        own = table[objective.name]
                        found[kind, at, [doc for _, doc in own.items]] = own.values
            place = position(space, params)
            rows.append(
                {
                    "scores": found[0],
                    "margins": found[1],
                    "positions": np.full(width, np.nan) if place is None else place,
                    "firsts": is_first,
                }
            )


if __name__ == "__main__":
    main()
