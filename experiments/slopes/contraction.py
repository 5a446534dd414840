"""One pass for inner products with all sources, against one after the other.

    OMP_NUM_THREADS=1 python -m experiments.slopes.contraction --millions 16

Prints nanoseconds of processor time per element of a gradient in single precision, whose products
with the task vectors of three sources in bfloat16 are taken.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from automerge.merging.backends.build import compiler
from automerge.merging.backends.code import CompiledCode
from automerge.merging.slopes import inner

REPEATS = 5


def nanoseconds(work: Callable[[], object], count: int) -> float:
    """Return the least time of several, per element."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found) / count * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=16)
    parser.add_argument("--sources", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(0)
    count = given.millions * 10**6
    gradient, base = torch.randn(count), torch.randn(count).bfloat16()
    sources = [(base + 0.01 * torch.randn(count)).bfloat16() for _ in range(given.sources)]
    found = compiler()
    if found is None:
        raise SystemExit("a C++ compiler is needed")
    code = CompiledCode(found)
    eager = nanoseconds(lambda: inner(gradient, sources, base, torch.float32), count)
    compiled = nanoseconds(lambda: code.products(gradient, sources, base), count)
    read = 4 + 2 * (1 + given.sources)
    print(f"one after the other: {eager:.2f} ns per element")
    print(f"one compiled pass:   {compiled:.2f} ns per element, {read / compiled:.1f} GB/s read")


if __name__ == "__main__":
    main()
