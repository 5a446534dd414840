"""What a measurement with slopes costs beside a pass forwards, as batches grow.

    OMP_NUM_THREADS=1 python -m experiments.slopes.batches --shape tiny --items 1 2 4 8 16 32

All items are in one batch. Times are processors' time, which other programs on the machine change
little.
"""

from __future__ import annotations

import argparse
import json

from automerge.bench.score_tasks import CHOICES, Lengths
from automerge.bench.slopes import SlopeTime, SlopeWork, bench_slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--items", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--choice", type=int, default=8)
    parser.add_argument("--method", default="task_arithmetic")
    given = parser.parse_args()
    lengths = Lengths(given.context, given.choice)
    for items in given.items:
        batch = items * CHOICES
        steps = bench_slopes(given.shape, lengths, items, batch, given.repeats, given.method)
        times = []
        for step in steps:
            if isinstance(step, SlopeWork):
                work = step
            else:
                times.append(step)
        median = SlopeTime.median(times)
        ratios = sorted(time.cpu_to_forward for time in times)
        row = {
            "items": items,
            "forward_cpu": round(median.forward_cpu, 4),
            "slopes_cpu": round(median.slopes_cpu, 4),
            "ratio": round(ratios[len(ratios) // 2], 2),
            "range": [round(ratios[0], 2), round(ratios[-1], 2)],
            "graph_mb": round(work.graph / 1e6),
            "gradients_mb": round(work.gradients / 1e6),
            "peak_mb": round(work.peak / 1e6),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
