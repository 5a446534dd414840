"""`automerge selftest`: the demo, searched on this machine, undisturbed and under faults."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from automerge import demo
from automerge.files.yaml_file import dump_yaml
from automerge.session.extras import install
from automerge.store.result import MODELS
from automerge.store.store import Store
from automerge.study import label
from automerge.text.say import say
from automerge.trial import PARTS, Measured, Part

if TYPE_CHECKING:
    from rich.console import Console

BUDGET = 8
PHASES: dict[str, Part] = {"searching": "search", "selecting": "select", "testing": "test"}
WAIT_S = 0.3
"""A fault strikes at most this long after the measurement it was drawn to follow."""
DISK_KB = (60, 500)
"""File size limits of a full disk: it fills during preparation, or during the search."""

Done = tuple[Part, str]
"""A measurement that was acknowledged: its part, and its trial's name and block."""


@dataclass(frozen=True)
class Row:
    """The outcome of one kind of fault.

    `lost` counts acknowledged measurements that the store lacks, `repeated` those made again.
    """

    fault: str
    tried: int
    survived: int
    lost: int = 0
    repeated: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost or repeated, and all ended as it does undisturbed."""
        return self.survived == self.tried and not self.lost and not self.repeated


def selftest(console: Console, *, chaos: bool, times: int) -> bool:
    """Search the demo here and show a table; return whether every check passed.

    `times` is how many times each fault of `chaos` is injected.
    """
    with tempfile.TemporaryDirectory(prefix="automerge-selftest-") as scratch:
        demo_study = DemoStudy(Path(scratch))
        checks: list[Callable[[], Row]] = [
            demo_study.searches,
            demo_study.resumes,
        ]
        with_ray = find_spec("ray") is not None
        if with_ray:
            checks.append(demo_study.searches_on_ray)
        if has_gpu():
            checks += [merges_on_gpu, demo_study.searches_on_gpu]
        if chaos:
            checks += [
                partial(demo_study.driver_killed, times),
                *([partial(demo_study.workers_killed, times)] if with_ray else []),
                partial(demo_study.killed_in_export, times),
                partial(demo_study.disk_full, times),
            ]
        if not with_ray:
            say(console, f"without Ray, which is not installed: {install('ray')}")
        rows = []
        for check in checks:
            rows.append(check())
            say(console, _line(rows[-1]))
            if not rows[-1].passed:
                say(console, demo_study.last_output)
    print_rows(rows, console)
    return all(row.passed for row in rows)


def has_gpu() -> bool:
    """Return whether PyTorch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def merges_on_gpu() -> Row:
    """Compare merges of every method on the GPU with the host's."""
    from automerge.bench.agreement import agreement

    found = dict(agreement("cuda"))
    return Row("GPU merges identical to the host's", len(found), sum(found.values()))


def _line(row: Row) -> str:
    return f"{'passed' if row.passed else 'FAILED'}  {row.fault}"


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Print a table of the checks."""
    from rich.table import Table

    table = Table()
    table.add_column("check")
    for name in ("tried", "survived", "lost trials", "duplicated measurements"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = (row.tried, row.survived, row.lost, row.repeated)
        table.add_row(row.fault, *map(str, numbers))
    console.print(table)


@dataclass
class Child:
    """One `automerge` process, and the measurements it acknowledged."""

    process: subprocess.Popen[str]
    done: list[Done] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    def follow(self, after: int | None = None, strike: Callable[[], None] | None = None) -> int:
        """Read its output to the end; return its exit code.

        `strike` is called a moment after `after` measurements."""
        timer: threading.Timer | None = None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            phase, _, rest = line.partition(" ")
            if phase in PHASES and "  " in rest:
                self.done.append((PHASES[phase], rest.split("  ")[1].split(" failed ")[0]))
            if timer is None and strike is not None and len(self.done) >= (after or 0):
                timer = threading.Timer(random.uniform(0, WAIT_S), strike)
                timer.start()
        code = self.process.wait()
        if timer is not None:
            timer.cancel()
        return code


class DemoStudy:
    """A small study of the demo, repeated in separate folders."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._config = scratch / "selftest.yaml"
        tasks = demo.TASKS[:2]
        self._config.write_text(
            dump_yaml(
                {
                    "name": "selftest",
                    "base": str(demo.BASE),
                    "models": {name: str(path) for name, path in demo.SOURCES.items()},
                    "include_path": str(demo.folder() / "tasks"),
                    "tasks": list(tasks),
                    "search": {"methods": ["linear", "task_arithmetic"], "depth": {"knots": 2}},
                    "sampler": "random",
                    "budget": BUDGET,
                    "shortlist": 2,
                    "split": {"max_select": 32, "max_test": 32},
                    "evaluation": {"batch_size": 16, "items_per_candidate": 16, "device": "cpu"},
                    "export": "none",
                }
            )
        )
        self._reference = scratch / "undisturbed"
        self._last: Child | None = None

    @property
    def last_output(self) -> str:
        """The end of the last command's output."""
        return "" if self._last is None else "".join(self._last.output[-12:]).rstrip()

    def searches(self) -> Row:
        """Run one whole search."""
        code = self._search(self._reference).follow()
        return Row("a whole search, undisturbed", 1, int(code == 0))

    def resumes(self) -> Row:
        """Run the same command again, which must measure nothing."""
        child = self._search(self._reference)
        code = child.follow()
        return Row("the same command again", 1, int(code == 0), repeated=len(child.done))

    def searches_on_ray(self) -> Row:
        """Search on one Ray worker, which must make the same trials."""
        out = self._scratch / "ray"
        code = self._search(out, *_RAY).follow()
        return Row("the same on a Ray worker", 1, int(code == 0 and self._same(out)))

    def searches_on_gpu(self) -> Row:
        """Search on the GPU, where scores may differ in rounding."""
        code = self._search(self._scratch / "gpu", "--device", "cuda").follow()
        return Row("a search on the GPU", 1, int(code == 0))

    def driver_killed(self, times: int) -> Row:
        """Kill the driver (-9) after random measurements."""
        out = self._scratch / "killed"
        done: list[Done] = []
        for _ in range(times):
            child = self._search(out)
            child.follow(random.randrange(BUDGET // 2), child.process.kill)
            done += child.done
        last = self._search(out)
        code = last.follow()
        return self._audit("kill -9 of the driver", times, out, [*done, *last.done], code)

    def workers_killed(self, times: int) -> Row:
        """Kill Ray workers (-9) while they measure, two measurements between any two kills."""
        struck = 0
        done: list[Done] = []
        out = self._scratch / "workers"
        child = self._search(out, *_RAY)
        stop = threading.Event()

        def strike() -> None:
            nonlocal struck
            seen = 0
            while struck < times and not stop.wait(random.uniform(0.01, 0.1)):
                measuring = ray_workers(child.process.pid)
                if measuring and len(child.done) > seen + 1:
                    seen = len(child.done)
                    os.kill(random.choice(measuring), signal.SIGKILL)
                    struck += 1

        code = child.follow(1, strike)
        stop.set()
        done += child.done
        return self._audit("kill -9 of Ray workers", struck, out, done, code)

    def killed_in_export(self, times: int) -> Row:
        """Kill (-9) while a model is written, which must never leave a partial folder."""
        with Store(self._reference, write=False) as store:
            trial = store.trials()[-1]
        arguments = ("export", str(self._reference), "--trial", str(trial.number))
        models = self._reference / MODELS
        target = models / trial.name
        survived = 0
        expected = b""
        for attempt in range(times + 1):
            child = self._start(*arguments)
            if attempt:
                _strike_in_staging(child.process, models)
            child.follow()
            weights = target / "model.safetensors"
            if not attempt:
                expected = weights.read_bytes()
            elif not target.exists() or weights.read_bytes() == expected:
                survived += 1
            if target.exists():
                target.rename(self._scratch / f"exported-{attempt}")
        whole = self._start(*arguments).follow() == 0
        whole &= (target / "model.safetensors").read_bytes() == expected
        whole &= not list(models.glob(".staging*"))
        return Row("kill -9 during export", times, survived if whole else 0)

    def disk_full(self, times: int) -> Row:
        """Stop files from growing; then run the same command with space again."""
        survived = lost = repeated = 0
        for attempt in range(times):
            out = self._scratch / f"full-{attempt}"
            size = random.randrange(*DISK_KB) * 1000
            child = self._search(out, limit=size)
            refused = child.follow()
            again = self._search(out)
            code = again.follow()
            row = self._audit("", 1, out, [*child.done, *again.done], code)
            survived += row.survived and refused in (0, 3, 5)
            lost, repeated = lost + row.lost, repeated + row.repeated
        return Row("full disk", times, survived, lost, repeated)

    def _search(self, out: Path, *options: str, limit: int | None = None) -> Child:
        return self._start("search", str(self._config), "--out", str(out), *options, limit=limit)

    def _start(self, *arguments: str, limit: int | None = None) -> Child:
        def full() -> None:
            assert limit is not None
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [sys.executable, "-m", "automerge.cli", *arguments],
            cwd=self._scratch,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=None if limit is None else full,
        )
        self._last = Child(process)
        return self._last

    def _audit(self, fault: str, tried: int, out: Path, done: Sequence[Done], code: int) -> Row:
        """Compare a disturbed study with the undisturbed one."""
        with Store(out, write=False) as store:
            trials = {trial.number: trial for trial in store.trials()}
            held = {
                (part, label(trials[n], block))
                for part in PARTS
                for n, blocks in store.blocks(part).items()
                for block in range(blocks)
            }
        survived = tried if code == 0 and self._same(out) else 0
        lost = len(set(done) - held)
        return Row(fault, tried, survived, lost, len(done) - len(set(done)))

    def _same(self, out: Path) -> bool:
        return content(out) == content(self._reference)


_RAY = ("--executor", "ray", "--workers", "1")


def content(run: Path) -> tuple[object, ...]:
    """Return all that two runs of one study must share: trials, item scores, front."""
    with Store(run, write=False) as store:
        decided = store.study.decided
        scores = {
            part: {
                number: outcome.scores if isinstance(outcome, Measured) else outcome.kind
                for number, outcome in store.each_outcome(part)
            }
            for part in PARTS
        }
        return store.trials(), scores, decided.shortlist, decided.front


def _strike_in_staging(process: subprocess.Popen[str], models: Path) -> None:
    """Kill a process shortly after it begins to write a folder."""

    def strike() -> None:
        while process.poll() is None:
            if list(models.glob(".staging*")):
                time.sleep(random.uniform(0, 0.05))
                process.kill()
                return
            time.sleep(0.001)

    threading.Thread(target=strike, daemon=True).start()


def ray_workers(ancestor: int) -> list[int]:
    """Return the process ids of our Ray actors below a process that are measuring now."""
    parents = dict(_processes())
    return [
        pid
        for pid in parents
        if _command(pid).startswith("ray::_Actor.measure") and _descends(pid, ancestor, parents)
    ]


def _processes() -> Iterator[tuple[int, int]]:
    """Yield every process with its parent."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                text = (folder / "stat").read_text()
            except OSError:
                continue
            yield int(folder.name), int(text.rpartition(")")[2].split()[1])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor
