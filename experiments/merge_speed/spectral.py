"""Processor seconds that methods on singular values take for one matrix: first recipe, and later.

    OMP_NUM_THREADS=1 python -m experiments.merge_speed.spectral --rows 1024 --columns 3584
    OMP_NUM_THREADS=1 python -m experiments.merge_speed.spectral --rank 16

Random matrices in float32, four sources: task vectors of full rank, or of adapters of `--rank`.
Other weights in every recipe. Prints a line per method.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.merging import ResidentEngine
from automerge.methods import METHODS
from automerge.recipe import BASE, Profile, Recipe, RecipeSource

MEASURED = ("iso_c", "iso_cts", "opcm", "tsv_m", "star", "cart")
SOURCES = 4
NAME = "model.layers.0.mlp.down_proj.weight"


def models(rows: int, columns: int, rank: int | None) -> dict[str, MemoryCheckpoint]:
    """A base and its sources, of one matrix each."""
    noise = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(rows, columns, generator=noise)
    found = {BASE: MemoryCheckpoint({NAME: base})}
    for number in range(SOURCES):
        if rank is None:
            vector = torch.randn(rows, columns, generator=noise)
        else:
            vector = torch.randn(rows, rank, generator=noise)
            vector = vector @ torch.randn(rank, columns, generator=noise)
        found[f"m{number}"] = MemoryCheckpoint({NAME: base + 0.002 * vector})
    return found


def recipe(method: str, number: int) -> Recipe:
    """A recipe with weights of its own."""
    sources = tuple(
        RecipeSource(f"m{i}", {"weight": Profile.of(0.3 + 0.1 * i + 0.01 * number)})
        for i in range(SOURCES)
    )
    return Recipe(method, sources, BASE if METHODS[method].anchored else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=14336)
    parser.add_argument("--rank", type=int, help="of adapters; without it, sources of full rank")
    parser.add_argument("--repeats", type=int, default=3, help="recipes after the first one")
    parser.add_argument("--method", action="append", choices=MEASURED)
    args = parser.parse_args()
    for method in args.method or MEASURED:
        engine = ResidentEngine(models(args.rows, args.columns, args.rank))
        seconds = []
        for number in range(args.repeats + 1):
            started = time.process_time()
            for _ in engine.merge(recipe(method, number)):
                pass
            seconds.append(time.process_time() - started)
        first, *later = seconds
        print(f"{method}: first {first:.2f} s, later {statistics.median(later):.3f} s", flush=True)


if __name__ == "__main__":
    main()
