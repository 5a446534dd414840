"""`make chaos`: many faults, one table. Exit code 1 where anything was lost or made twice."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from automerge.commands.selftest import print_rows
from tests.chaos import faults

KINDS = {
    "driver": (faults.driver_killed, 50),
    "export": (faults.export_killed, 20),
    "disk": (faults.disk_full, 20),
    "export-disk": (faults.export_disk_full, 20),
    "workers": (faults.workers_killed, 50),
    "nodes": (faults.nodes_killed, 10),
    "line": (faults.line_cut, 12),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--times", type=int, help="how often each fault strikes")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    console = Console(highlight=False)
    console.print(f"seed {given.seed}")
    rows = []
    for kind in given.only:
        strike, times = KINDS[kind]
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="automerge-chaos-") as scratch:
            rows.append(strike(Path(scratch), given.times or times, random.Random(given.seed)))
        console.print(f"{kind}: {time.monotonic() - began:.0f} s, {rows[-1]}", soft_wrap=True)
    print_rows(rows, console)
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
