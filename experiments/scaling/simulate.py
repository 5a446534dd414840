"""The real driver, store and samplers with workers that only wait, in virtual time.

The clock of the simulation advances by what the driver really computes (measured, with its
transactions on this disk), and jumps over what it waits for. So a worker idles exactly as long as
the driver keeps it idle.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from automerge.items import ItemDraw, Sealed, StudyItems
from automerge.methods import METHODS
from automerge.objective import ItemScores, Objective
from automerge.recipe import Recipe, single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.space import Knots, build_space
from automerge.store.store import Store
from automerge.study import Driver, FirstTrial, Limits, Plan, Snapshot
from automerge.testing.spaces import plain_settings
from automerge.testing.studies import plain_record
from automerge.trial import Items, Job, Measured, Outcome, Timings

SOURCES = ("a", "b", "c", "d")
METHODS_SEARCHED = ("linear", "task_arithmetic", "ties", "dare_ties")
ITEMS_PER_CANDIDATE = 100
POOL = 8 * ITEMS_PER_CANDIDATE
OBJECTIVES = (
    Objective("first", "one", "acc", "none", "maximize"),
    Objective("second", "two", "acc", "none", "maximize"),
)
SIGMA = 0.8


def uniform(*key: object) -> float:
    """A number in (0, 1) that depends on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2**64


class Bench:
    """Scores of recipes by formula, drawn once for every item; costs next to nothing."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._difficulty = {o.task: rng.random(POOL) for o in OBJECTIVES}

    def scores(self, recipe: Recipe, items: Items) -> dict[str, ItemScores]:
        weights = {s.name: s.knobs["weight"].parts[0][1][0] for s in recipe.sources if s.knobs}
        total = sum(abs(w) for w in weights.values()) or 1.0
        found = {}
        for objective, likes in zip(OBJECTIVES, ("a", "b"), strict=True):
            level = 0.2 + 0.6 * weights.get(likes, 0.0) / total
            ids = items[objective.task]
            values = (self._difficulty[objective.task][list(ids)] < level).astype(float)
            found[objective.name] = ItemScores(
                tuple((objective.task, i) for i in ids), tuple(values.tolist())
            )
        return found


def duration_s(seed: int, trial: int, mean_s: float) -> float:
    """Log-normal with the given mean and shape SIGMA, the same for a trial at any size."""
    normal = statistics.NormalDist().inv_cdf(uniform(seed, trial))
    return mean_s * math.exp(SIGMA * normal - SIGMA**2 / 2)


class VirtualWorkers:
    """An executor whose workers wait in virtual time; `ahead` jobs more than workers may queue."""

    def __init__(self, workers: int, ahead: int, mean_s: float) -> None:
        self.slots = workers + ahead
        self._mean_s = mean_s
        self._workers = workers
        self._bench = Bench()
        self._queue: list[tuple[float, Job]] = []
        self._running: list[tuple[float, int, Job]] = []
        self._free = [0.0] * workers
        self.now = 0.0
        self.driver_s = 0.0
        self.driver_cpu_s = 0.0
        self._intervals: list[tuple[float, float]] = []
        self._last_submitted = 0.0
        self._resume()

    def busy_share(self) -> float:
        """The share of the workers' time spent measuring until the last job was submitted."""
        end = self._last_submitted
        busy = sum(max(0.0, min(finish, end) - begin) for begin, finish in self._intervals)
        return busy / (self._workers * end)

    def _account(self) -> None:
        spent = time.perf_counter() - self._returned
        self.driver_s += spent
        self.driver_cpu_s += time.process_time() - self._returned_cpu
        self.now += spent

    def _resume(self) -> None:
        self._returned, self._returned_cpu = time.perf_counter(), time.process_time()

    def submit(self, job: Job) -> None:
        self._account()
        self._queue.append((self.now, job))
        self._last_submitted = self.now
        self._resume()

    def next_finished(self, timeout_s: float) -> tuple[Job, Outcome] | None:
        del timeout_s
        self._account()
        self._start()
        finished, _, job = heapq.heappop(self._running)
        self._free.append(finished)
        self.now = max(self.now, finished)
        outcome = Measured(self._bench.scores(job.recipe, job.items), Timings(total=1.0))
        self._resume()
        return job, outcome

    def _start(self) -> None:
        """Give queued jobs to workers, each when both were ready."""
        self._free.sort()
        while self._queue and self._free:
            ready, job = self._queue.pop(0)
            begins = max(ready, self._free.pop(0))
            took = duration_s(0, job.trial, self._mean_s)
            self._intervals.append((begins, begins + took))
            heapq.heappush(self._running, (begins + took, job.trial, job))

    def close(self) -> None: ...


class Unwatched:
    """An observer with the least to do."""

    def __init__(self, every: Callable[[Snapshot], None] = lambda _: None) -> None:
        self.update = every

    def note(self, message: str) -> None:
        print("note:", message)


@dataclass(frozen=True)
class Result:
    """One simulated search.

    `busy` is the share of the workers' time spent measuring from the first proposal to the last;
    after that there is nothing left to give them. Milliseconds are the driver's, per trial: of wall
    time, as the simulation counts them, and of processor time, which a busy machine inflates less.
    Resuming is reading the store, estimating all and repeating the calls to the sampler.
    """

    sampler: str
    workers: int
    ahead: int
    mean_s: float
    trials: int
    busy: float
    driver_ms: float
    driver_ms_median: float
    driver_cpu_ms: float
    driver_ms_late: float
    rss_mb: tuple[tuple[int, float], ...]
    store_mb: float
    resume_s: float
    resume_cpu_s: float


def rss_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def simulate(sampler: str, workers: int, ahead: int, mean_s: float, trials: int) -> Result:
    """Search with so many waiting workers."""
    space = build_space(
        plain_settings(*METHODS_SEARCHED, depth=Knots(2)),
        "base", SOURCES, 8, METHODS,
    )  # fmt: skip
    first = (
        FirstTrial("base", "base", single("base")),
        *(FirstTrial(name, "source", single(name)) for name in SOURCES),
        FirstTrial("uniform", "uniform", uniform_average(SOURCES)),
    )
    pool: Items = {o.task: tuple(range(POOL)) for o in OBJECTIVES}
    draw = ItemDraw({o.name: (o.task,) for o in OBJECTIVES}, ITEMS_PER_CANDIDATE, seed=0)
    parts = StudyItems(pool, pool, Sealed(pool))
    plan = Plan(OBJECTIVES, (), first, parts, draw, Limits(trials), shortlist=0, resolution=0.0)
    executor = VirtualWorkers(workers, ahead, mean_s)
    folder = Path(tempfile.mkdtemp(prefix="scaling-"))
    memory: list[tuple[int, float]] = []
    spent: list[float] = []

    def watch(snapshot: Snapshot) -> None:
        spent.append(executor.driver_s)
        if snapshot.done % (trials // 10) == 0:
            memory.append((snapshot.done, round(rss_mb(), 1)))

    def search() -> None:
        with Store(folder, write=True) as store:
            if not store.begun:
                store.begin(plain_record(plan, SOURCES, n_layers=8))
            Driver(
                store, plan, space, SAMPLERS[sampler](space, len(OBJECTIVES), 0, trials),
                lambda: executor, Unwatched(watch), lambda: len(spent) >= trials,
            ).run()  # fmt: skip

    try:
        search()
        store_mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        begun, begun_cpu = time.perf_counter(), time.process_time()
        search()
        resume_s, resume_cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    finally:
        shutil.rmtree(folder)
    each = np.diff(spent) * 1000
    return Result(
        sampler, workers, ahead, mean_s, trials,
        round(executor.busy_share(), 4),
        round(float(each.mean()), 2),
        round(float(np.median(each)), 2),
        round(executor.driver_cpu_s / trials * 1000, 2),
        round(float(each[-len(each) // 10 :].mean()), 2),
        tuple(memory),
        round(store_mb, 1),
        round(resume_s, 2),
        round(resume_cpu_s, 2),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sampler", nargs="+", default=["random", "cma", "gp"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--ahead", nargs="+", type=int, default=[0])
    parser.add_argument("--mean-s", nargs="+", type=float, default=[60.0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    given = parser.parse_args()
    found = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
    for sampler in given.sampler:
        for mean_s in given.mean_s:
            for workers in given.workers:
                for ahead in given.ahead:
                    load = os.getloadavg()[0]
                    result = asdict(simulate(sampler, workers, ahead, mean_s, given.trials))
                    print(json.dumps(result), f"load {load:.1f}", flush=True)
                    found.append(result)
                    machine = (
                        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
                    )
                    given.out.write_text(json.dumps({"machine": machine, "runs": found}, indent=1))


if __name__ == "__main__":
    main()
