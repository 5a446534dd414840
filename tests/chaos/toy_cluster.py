"""A child process that measures on a cluster until told to stop: ADDRESS STOP REPORT."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from automerge.errors import ClusterLost
from automerge.executors.ray import RayExecutor, RaySettings
from tests.chaos.faults import counted, measure_while
from tests.toy import ToyWorker


def main(address: str, stop: Path, report: Path) -> None:
    """Write how many workers were up, after each change, then what became of the jobs."""
    executor = RayExecutor(partial(ToyWorker, None, 0.05), RaySettings(2, address=address))
    seen: list[int] = []

    def going() -> bool:
        if [executor.slots] != seen[-1:]:
            seen.append(executor.slots)
            report.with_suffix(".slots").write_text(json.dumps(seen))
        return not stop.exists()

    try:
        finished = measure_while(executor, going, into=[])
    except ClusterLost as error:
        sys.exit(error.exit_code)
    finally:
        executor.close()
    found = {"slots": seen, "row": asdict(counted("", len(finished), finished))}
    report.with_suffix(".part").write_text(json.dumps(found))
    report.with_suffix(".part").rename(report)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
