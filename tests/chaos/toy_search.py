"""One toy search to be killed: `python -m tests.chaos.toy_search RUN WITNESS`.

The witness gets a line when a measurement starts, and one when it is acknowledged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from automerge.errors import AutomergeError
from automerge.executors.local import LocalExecutor
from automerge.samplers import SAMPLERS
from automerge.study import Driver, Snapshot
from automerge.trial import Job, Outcome, Part
from tests.studies import SPACE, toy_plan, toy_store
from tests.toy import OBJECTIVES, ToyWorker, fails

BUDGET = 40
SAMPLER = "cma"
FAILING = (7, 19)


class Witness:
    """A worker and an observer that write down what they see."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._worker = ToyWorker(seconds=0.002, fail=fails(*FAILING))
        self._last: Job | None = None

    def identity(self) -> dict[str, str]:
        return self._worker.identity()

    def prepare(self, part: Part) -> None: ...

    def measure(self, job: Job) -> Outcome:
        self._write("start", job)
        self._last = job
        return self._worker.measure(job)

    def update(self, snapshot: Snapshot) -> None:
        del snapshot
        if self._last is not None:
            self._write("done", self._last)

    def note(self, message: str) -> None:
        if self._file is not None:
            os.write(self._file, f"note {message}\n".encode())

    def _write(self, word: str, job: Job) -> None:
        if self._file is not None:
            os.write(self._file, f"{word} {job.part}/{job.trial}/{job.recipe.id}\n".encode())


def toy_search(run: Path, witness: Witness) -> None:
    plan = toy_plan(BUDGET)
    with toy_store(run, plan) as store:
        sampler = SAMPLERS[SAMPLER](SPACE, len(OBJECTIVES), 0, BUDGET)
        executor = LocalExecutor(lambda: witness)
        Driver(store, plan, SPACE, sampler, lambda: executor, witness, lambda: False).run()


if __name__ == "__main__":
    try:
        toy_search(Path(sys.argv[1]), Witness(Path(sys.argv[2])))
    except AutomergeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
