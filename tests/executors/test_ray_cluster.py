"""Several Ray nodes on this machine: workers hang, nodes leave and join, none is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from automerge.errors import ClusterLost
from automerge.executors.ray import RayExecutor, RaySettings
from automerge.trial import Failed, Job, Measured, Outcome
from tests.executors.test_executors import job
from tests.toy import ToyWorker

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without room for workers; tests add nodes to it."""
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    ray.init(address=found.address, log_to_driver=False, configure_logging=False)
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def collect(executor: RayExecutor, jobs: list[Job], timeout_s: float = 90) -> dict[int, Outcome]:
    for one in jobs:
        executor.submit(one)
    finished: dict[int, Outcome] = {}
    until = time.monotonic() + timeout_s
    while len(finished) < len(jobs):
        if (done := executor.next_finished(timeout_s=0.5)) is not None:
            assert done[0].trial not in finished, "one job, one answer"
            finished[done[0].trial] = done[1]
        assert time.monotonic() < until
    return finished


@dataclass(frozen=True)
class Hangs(ToyWorker):
    """Sleeps for ever over one trial, the first `times` times."""

    folder: Path = Path()
    trial: int = 0
    times: int = 0

    def measure(self, job: Job) -> Outcome:
        if job.trial == self.trial and len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(time.monotonic_ns())).touch()
            time.sleep(3600)
        return ToyWorker().measure(job)


@pytest.mark.parametrize(("times", "survives"), [(1, True), (9, False)])
def test_a_hung_measurement_is_given_up_and_the_others_go_on(
    cluster: Cluster, tmp_path: Path, times: int, survives: bool
) -> None:
    cluster.add_node(num_cpus=2)
    settings = RaySettings(workers=2, min_deadline_s=2.0)
    executor = RayExecutor(partial(Hangs, folder=tmp_path, trial=6, times=times), settings)
    finished = collect(executor, [job(n) for n in range(9)])
    executor.close()
    assert all(isinstance(finished[n], Measured) for n in range(9) if n != 6)
    if survives:
        assert finished[6] == ToyWorker().measure(job(6))
    else:
        outcome = finished[6]
        assert isinstance(outcome, Failed)
        assert outcome.kind == "timeout"
        assert "no result after 2 s" in outcome.reason


def test_slots_follow_nodes_that_leave_and_join(cluster: Cluster) -> None:
    stays, leaves = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    del stays
    executor = RayExecutor(partial(ToyWorker, None, 0.05), RaySettings(workers=2))
    collect(executor, [job(n) for n in range(20)])
    assert executor.slots == 2
    cluster.remove_node(leaves)
    finished = collect(executor, [job(n) for n in range(20, 60)])
    assert all(isinstance(outcome, Measured) for outcome in finished.values())
    assert executor.slots == 1
    cluster.add_node(num_cpus=1)
    for start in range(60, 3000, 20):
        collect(executor, [job(n) for n in range(start, start + 20)])
        if executor.slots == 2:
            break
    assert executor.slots == 2
    executor.close()


def test_when_no_worker_is_left_the_cluster_is_lost(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1)
    executor = RayExecutor(partial(ToyWorker, None, 0.05), RaySettings(workers=1, patience_s=12.0))
    collect(executor, [job(0)])
    cluster.remove_node(node)
    with pytest.raises(ClusterLost, match="run the same command to resume"):
        collect(executor, [job(1)])
    executor.close()
