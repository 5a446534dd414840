"""Faults in numbers: what they do to searches and exports, counted."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from automerge.commands.selftest import Row, content, ray_workers
from automerge.executors.ray import RayExecutor, RaySettings
from automerge.store.store import FILE, Store
from automerge.trial import PARTS, Job, Measured, Outcome
from tests.chaos.hosts import HEAD, OTHER, PORT, two_hosts
from tests.chaos.toy_search import Witness, toy_search
from tests.executors.test_executors import job
from tests.toy import ToyWorker

KILLS_PER_RUN = 6
REPOSITORY = Path(__file__).parents[2]


def child(module: str, *arguments: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.chaos.{module}", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def undisturbed(scratch: Path) -> Path:
    run = scratch / "undisturbed"
    if not run.is_dir():
        toy_search(run, Witness(None))
    return run


def lines(witness: Path) -> list[str]:
    return witness.read_text().splitlines() if witness.is_file() else []


def audit(fault: str, tried: int, run: Path, witness: Path, reference: Path) -> Row:
    """Hold a disturbed search against its witness and against one that was left in peace."""
    done: set[str] = set()
    repeated = 0
    for line in lines(witness):
        word, _, key = line.partition(" ")
        repeated += word == "start" and key in done
        if word == "done":
            done.add(key)
    with Store(run, write=False) as store:
        ids = {trial.number: trial.recipe.id for trial in store.trials()}
        held = {f"{part}/{n}/{ids[n]}" for part in PARTS for n in store.outcomes(part)}
    survived = tried if content(run) == content(reference) else 0
    return Row(fault, tried, survived, len(done - held), repeated)


def add(fault: str, rows: list[Row]) -> Row:
    return Row(
        fault,
        sum(row.tried for row in rows),
        sum(row.survived for row in rows),
        sum(row.lost for row in rows),
        sum(row.repeated for row in rows),
    )


def strike_driver(process: subprocess.Popen[bytes], witness: Path, rng: random.Random) -> bool:
    """Kill a search at a random moment; False where it was quicker.

    Half of the moments are drawn over the process's whole life, half over its measurements.
    """
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 2.0))
    else:
        goal = len(lines(witness)) + rng.randrange(40)
        while process.poll() is None and len(lines(witness)) < goal:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
    process.kill()
    return process.wait() == -9


def driver_killed(scratch: Path, times: int, rng: random.Random) -> Row:
    reference = undisturbed(scratch)
    rows: list[Row] = []
    while (left := times - sum(row.tried for row in rows)) > 0:
        run = scratch / f"driver-{len(rows)}"
        witness = run.with_suffix(".witness")
        killed = 0
        while killed < min(KILLS_PER_RUN, left):
            process = child("toy_search", run, witness)
            if not strike_driver(process, witness, rng):
                break
            killed += 1
        assert child("toy_search", run, witness).wait() == 0
        rows.append(audit("", killed, run, witness, reference))
    return add("kill -9 of the driver", rows)


def export_killed(scratch: Path, times: int, rng: random.Random) -> Row:
    """Whatever the moment: the folder is whole or absent, and the next export cleans up."""
    import torch

    from tests.checkpoints.models import llama, save

    torch.manual_seed(0)
    source = save(llama(), scratch / "source")
    target = scratch / "exports" / "model"
    target.parent.mkdir()
    assert child("toy_export", source, target).wait() == 0
    expected = {file.name: file.read_bytes() for file in target.iterdir()}
    struck = survived = 0
    while struck < times:
        shutil.rmtree(target, ignore_errors=True)
        process = child("toy_export", source, target)
        while process.poll() is None and not list(target.parent.glob(".staging*")):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.08))
        process.kill()
        if process.wait() != -9:
            continue
        struck += 1
        whole = {f.name: f.read_bytes() for f in target.iterdir()} if target.exists() else None
        survived += whole in (None, expected)
    shutil.rmtree(target, ignore_errors=True)
    assert child("toy_export", source, target).wait() == 0
    swept = [entry.name for entry in target.parent.iterdir()] == ["model"]
    return Row("kill -9 during export", struck, survived if swept else 0)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """A disk of its own in memory; yields what gives it another size. Needs root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)

    def resize(to: int) -> None:
        again = ["mount", "-o", f"remount,size={to}k", str(folder)]
        subprocess.run(again, check=True, capture_output=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def disk_full(scratch: Path, times: int, rng: random.Random) -> Row:
    """The disk fills during a search, which says so; with room again the same command ends it."""
    reference = undisturbed(scratch)
    with Store(reference, write=False):
        whole_kb = (reference / FILE).stat().st_size // 1024
    rows = []
    for attempt in range(times):
        disk = scratch / f"disk-{attempt}"
        witness = scratch / f"disk-{attempt}.witness"
        with small_disk(disk, rng.randrange(4, whole_kb)) as resize:
            refused = child("toy_search", disk / "run", witness).wait()
            resize(20_000)
            code = child("toy_search", disk / "run", witness).wait()
            row = audit("", 1, disk / "run", witness, reference)
        rows.append(Row("", 1, row.survived and (refused, code) == (5, 0), row.lost, row.repeated))
    return add("full disk during a search", rows)


def export_disk_full(scratch: Path, times: int, rng: random.Random) -> Row:
    """The disk fills during an export: nothing appears, what was there stays, room is freed."""
    import torch

    from automerge.errors import PreflightError
    from tests.chaos.toy_export import export
    from tests.checkpoints.models import llama, save

    torch.manual_seed(0)
    source = save(llama(), scratch / "full-source")
    whole_kb = sum(file.stat().st_size for file in source.iterdir()) // 1024
    survived = 0
    for attempt in range(times):
        disk = scratch / f"export-disk-{attempt}"
        with small_disk(disk, rng.randrange(4, whole_kb)) as resize:
            try:
                export(source, disk / "model")
            except PreflightError:
                clean = list(disk.iterdir()) == []
                resize(20_000)
                export(source, disk / "model")
                survived += clean and (disk / "model" / "config.json").is_file()
    return Row("full disk during export", times, survived)


def workers_killed(scratch: Path, times: int, rng: random.Random) -> Row:
    """Random workers of two die while they measure; every trial is measured all the same."""
    import os
    import signal

    executor = RayExecutor(partial(ToyWorker, None, 0.05), RaySettings(workers=2))
    struck = 0
    stop = threading.Event()
    finished: list[tuple[Job, Outcome]] = []

    def strike() -> None:
        """Strike again only once the job struck before has been measured, whatever that takes."""
        nonlocal struck
        goal = 0
        while struck < times and not stop.wait(rng.uniform(0.01, 0.05)):
            if len(finished) >= goal and (measuring := ray_workers(os.getpid())):
                os.kill(rng.choice(measuring), signal.SIGKILL)
                struck += 1
                # The job struck comes first in the queue: it is among the next that are measured.
                goal = len(finished) + rng.randint(4, 12)

    killer = threading.Thread(target=strike)
    killer.start()
    try:
        measure_while(executor, killer.is_alive, into=finished)
    finally:
        stop.set()
        executor.close()
    del scratch
    return counted("kill -9 of Ray workers", struck, finished)


def nodes_killed(scratch: Path, times: int, rng: random.Random) -> Row:
    """Nodes of a Ray cluster die and others join; every trial is measured all the same."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    executor = RayExecutor(partial(ToyWorker, None, 0.05), RaySettings(workers=2))
    finished: list[tuple[Job, Outcome]] = []
    try:
        for _ in range(times):
            until = time.monotonic() + rng.uniform(3.0, 6.0)
            measure_while(executor, lambda u=until: time.monotonic() < u, into=finished)  # type: ignore[misc]
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1)
        measure_while(executor, lambda: False, into=finished)
    finally:
        executor.close()
        ray.shutdown()
        cluster.shutdown()
    del scratch
    return counted("loss of a Ray node", times, finished)


def line_cut(scratch: Path, times: int, rng: random.Random) -> Row:
    """The line to a host is cut for a moment, or until its node counts as lost and joins again."""
    stop, report = scratch / "stop", scratch / "report.json"
    with two_hosts(scratch) as hosts:
        hosts.start_ray(HEAD)
        hosts.await_port(HEAD, PORT)
        node = hosts.start_ray(OTHER)
        driver = [sys.executable, "-m", "tests.chaos.toy_cluster", f"{HEAD}:{PORT}"]
        search = hosts.run(HEAD, *driver, str(stop), str(report))
        await_slots(report, 2)
        for turn in range(times):
            time.sleep(rng.uniform(1, 3))
            hosts.cut()
            if turn % 3 == 2:
                await_slots(report, 1)
                hosts.mend()
                hosts.end(node)
                node = hosts.start_ray(OTHER)
                await_slots(report, 2)
            else:
                time.sleep(rng.uniform(0.5, 2))
                hosts.mend()
        time.sleep(3)
        stop.touch()
        search.wait(120)
    row = Row(**json.loads(report.read_text())["row"])
    fine = not row.lost and not row.repeated
    return Row("cut line to a host", times, times if fine else 0, row.lost, row.repeated)


def head_lost(scratch: Path) -> int:
    """How a search ends that loses the head of its cluster."""
    report = scratch / "report.json"
    with two_hosts(scratch) as hosts:
        head = hosts.start_ray(HEAD)
        hosts.await_port(HEAD, PORT)
        driver = [sys.executable, "-m", "tests.chaos.toy_cluster", f"{HEAD}:{PORT}"]
        search = hosts.run(HEAD, *driver, str(scratch / "never"), str(report))
        await_slots(report, 1)
        hosts.end(head, gently=False)
        return search.wait(120)


def await_slots(report: Path, wanted: int) -> None:
    """Wait until a search on a cluster has so many workers."""
    seen, until = report.with_suffix(".slots"), time.monotonic() + 180
    while not seen.exists() or json.loads(seen.read_text() or "[0]")[-1] != wanted:
        if time.monotonic() > until:
            raise TimeoutError(f"{wanted} worker(s) were not up in time")
        time.sleep(0.2)


def measure_while(
    executor: RayExecutor, going: Callable[[], bool], *, into: list[tuple[Job, Outcome]]
) -> list[tuple[Job, Outcome]]:
    """Keep the workers busy as long as faults strike, then wait for what runs; add to a list."""
    finished = into
    number = len(finished)
    in_flight = 0
    while going() or in_flight:
        while going() and in_flight < executor.slots:
            executor.submit(job(number))
            number, in_flight = number + 1, in_flight + 1
        if (done := executor.next_finished(timeout_s=0.5)) is not None:
            finished.append(done)
            in_flight -= 1
    return finished


def counted(fault: str, tried: int, finished: list[tuple[Job, Outcome]]) -> Row:
    """A job without scores is lost, one with two answers repeated; each counts for one fault."""
    numbers = [one.trial for one, _ in finished]
    right = ToyWorker()
    lost = sum(
        not isinstance(outcome, Measured) or outcome != right.measure(one)
        for one, outcome in finished
    ) + len(set(range(max(numbers) + 1)) - set(numbers))
    repeated = len(numbers) - len(set(numbers))
    return Row(fault, tried, max(tried - lost - repeated, 0), lost, repeated)
