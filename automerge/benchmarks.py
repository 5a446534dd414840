"""Run benchmarks and show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import ConfigError, Fault, nearest

if TYPE_CHECKING:
    from rich.console import Console

BYTES_FREE = 3 * 10**9
"""Left to the rest of the machine."""


def print_merge_times(
    console: Console,
    shape: str,
    sources: int,
    methods: Sequence[str],
    repeats: int,
    as_json: bool,
) -> None:
    """Time merging, a line a method as it is known; JSON at the end if asked for.

    Raises ConfigError for unknown names, or where the models do not fit into memory.
    """
    import torch

    from automerge.bench.merge import DEFAULT, bench_merge
    from automerge.bench.shapes import SIZES
    from automerge.methods import METHODS

    faults = [
        f"unknown method {method!r}{nearest(method, tuple(METHODS))}"
        for method in methods
        if method not in METHODS
    ]
    if shape not in SIZES:
        faults.append(f"unknown shape {shape!r}: expected one of {', '.join(SIZES)}")
    if not 2 <= sources <= 16:
        faults.append(f"--sources must lie in [2, 16]; got {sources}")
    if not 1 <= repeats <= 1000:
        faults.append(f"--repeats must lie in [1, 1000]; got {repeats}")
    if not faults:
        needed = (sources + 2) * 2 * SIZES[shape].n_parameters
        free = free_bytes()
        if free is not None and needed > free - BYTES_FREE:
            faults.append(
                f"{sources} sources of shape {shape} need {needed / 1e9:.1f} GB beside "
                f"{BYTES_FREE / 1e9:.0f} GB for all else; {free / 1e9:.1f} GB are free: give a "
                "smaller --shape or fewer --sources"
            )
    if faults:
        raise ConfigError([Fault(fault) for fault in faults])
    threads = torch.get_num_threads()
    if not as_json:
        console.print(
            f"{SIZES[shape].n_parameters / 1e6:.0f} M parameters in bfloat16, {threads} thread(s); "
            f"ratio: to copying the bytes a merge reads and writes\n"
            f"{'method':<18} {'sources':>7} {'first s':>8} {'merge s':>8} {'GB/s':>6} {'ratio':>6}",
            markup=False,
            highlight=False,
        )
    times = []
    for time in bench_merge(shape, sources, methods or DEFAULT, repeats):
        times.append(time.plain())
        if not as_json:
            console.print(
                f"{time.method:<18} {time.sources:>7} {time.first:>8.2f} {time.merge:>8.3f} "
                f"{time.bandwidth / 1e9:>6.1f} {time.ratio:>6.2f}",
                markup=False,
                highlight=False,
            )
    if as_json:
        found = {"shape": shape, "threads": threads, "times": times}
        console.print(json.dumps(found, indent=1), markup=False, highlight=False, soft_wrap=True)


def free_bytes() -> int | None:
    """Memory that programs may still take; None where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        lines = dict(line.split(":", 1) for line in text.splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
