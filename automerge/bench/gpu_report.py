"""Everything that can be measured on a GPU, by one command, in one file.

    python -m automerge.bench.gpu_report            # or: make gpu-report

Each part is a process of its own with a limit of time. One that fails or takes too long is
recorded and stops no other; the file is written again after each part, so that an interruption
loses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

TOTAL_S = 470.0
"""Seconds that all parts have together."""
ITEMS = 200
"""Items that are answered."""
GRACE_S = 5.0
"""Seconds that a part has to end after SIGTERM."""
SHOWN = 8000
"""Characters of a part's output that are kept: its end."""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What colours text on terminals."""


@dataclass(frozen=True)
class Part:
    """A command, and the most seconds it may take."""

    title: str
    command: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """How a part ended; `output` is what it printed, and `status` None where time ran out."""

    part: Part
    status: int | None
    seconds: float
    output: str

    @property
    def result(self) -> str:
        """Say how it ended."""
        if self.status is None:
            return f"out of time after {self.seconds:.0f} s"
        return "done" if self.status == 0 else f"**failed** (exit code {self.status})"


def parts(device: str, shape: str, smaller: str, items: int = ITEMS) -> list[Part]:
    """List what is measured, most wanted first.

    Args:
        device: as in the configuration.
        shape: a size of the benchmarks' models; the demo's tests run as they are.
        smaller: the size with which answers are generated first.
        items: that are answered; half as many have choices.
    """
    automerge = (sys.executable, "-m", "automerge.cli")
    at = ("--device", device)
    lengths = ("--context", "200", "--choice", "20", "--batch-size", "64", "--repeats", "3")
    common = ("--method", "task_arithmetic", "--method", "ties", "--method", "dare_ties")

    def bench(what: str, size: str, limit_s: float, *options: str) -> Part:
        command = (*automerge, "bench", what, "--shape", size, *options, *at)
        return Part(f"bench {what}, {size}", command, limit_s)

    answers = ("--items", str(items), "--repeats", "1")
    choices = ("--items", str(max(1, items // 2)))
    return [
        Part("make test-gpu", (sys.executable, "-m", "pytest", "-q", "-m", "gpu"), 90),
        bench("merge", shape, 120, *common, "--repeats", "3"),
        bench("generate", smaller, 120, *answers),
        bench("score", shape, 100, *choices, *lengths),
        bench("slopes", shape, 100, *choices, *lengths),
        Part("selftest", (*automerge, "selftest"), 90),
        *([] if smaller == shape else [bench("generate", shape, 120, *answers)]),
    ]


def run(part: Part, left_s: float) -> Outcome:
    """Run a part to its end, or until its time or all that is left is over."""
    began = time.monotonic()
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    try:
        process = subprocess.Popen(
            part.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(part, 127, 0.0, str(error))
    status: int | None = None
    try:
        content, _ = process.communicate(timeout=max(0.0, min(part.limit_s, left_s)))
        status = process.returncode
    except subprocess.TimeoutExpired:
        content = _ended(process)
    finally:
        _kill(process)
    printed = ESCAPE.sub("", content.decode(errors="replace"))
    return Outcome(part, status, time.monotonic() - began, printed)


def _ended(process: subprocess.Popen[bytes]) -> bytes:
    """Ask a process and its children to end; return what was printed."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.communicate(timeout=GRACE_S)[0]
    except subprocess.TimeoutExpired:
        _kill(process)
        return process.communicate()[0]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def facts() -> Iterator[tuple[str, str]]:
    """Yield what is known about this machine, by name."""
    import torch
    import transformers

    from automerge.machine.processors import affine_cpus
    from automerge.merging import free_host_bytes

    yield "automerge", version("automerge-llm")
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    yield "PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    yield "transformers", transformers.__version__
    yield "processors", f"{affine_cpus()} ({platform.machine()})"
    free = free_host_bytes()
    yield "host memory free", "unknown" if free is None else f"{free / 1e9:.0f} GB"
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        size = f"{known.total_memory / 1e9:.0f} GB, compute {known.major}.{known.minor}"
        yield f"GPU {number}", f"{known.name}, {size}"
    if not torch.cuda.is_available():
        yield "GPU", "none that PyTorch can use"
    if smi := shutil.which("nvidia-smi"):
        asked = (smi, "--query-gpu=driver_version", "--format=csv,noheader")
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
        yield "driver", ", ".join(found.stdout.split()) or "unknown"


def page(known: Sequence[tuple[str, str]], outcomes: Sequence[Outcome], to_come: int) -> str:
    """Return the report as Markdown: the machine, how each part ended, and what each printed."""
    lines = ["# What this machine measures", "", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in known), ""]
    if to_come:
        lines += [f"**Not finished: {to_come} parts are still to come.**", ""]
    lines += ["| part | result | s |", "|---|---|---|"]
    lines += [f"| {o.part.title} | {o.result} | {o.seconds:.0f} |" for o in outcomes]
    for outcome in outcomes:
        command = " ".join(("python", *outcome.part.command[1:]))
        text = outcome.output.strip()
        cut = "… (its beginning is left out)\n" if len(text) > SHOWN else ""
        lines += ["", f"## {outcome.part.title}", "", f"    {command}", ""]
        lines += ["~~~text", f"{cut}{text[-SHOWN:]}", "~~~"]
    return "\n".join(lines) + "\n"


def measure(chosen: Sequence[Part], out: Path, total_s: float = TOTAL_S) -> list[Outcome]:
    """Run the parts one after the other and write the report; what has no time left is not run."""
    known = list(facts())
    outcomes: list[Outcome] = []
    ends = time.monotonic() + total_s
    for part in chosen:
        left = ends - time.monotonic()
        if left > 0:
            print(f"{part.title} ...", flush=True)
            outcomes.append(run(part, left))
            print(f"  {outcomes[-1].result}, {outcomes[-1].seconds:.0f} s", flush=True)
        else:
            outcomes.append(Outcome(part, None, 0.0, "not begun"))
        out.write_text(page(known, outcomes, len(chosen) - len(outcomes)), encoding="utf-8")
    return outcomes


def main(given: Sequence[str] | None = None) -> int:
    """Write the report; return 1 if a part failed or had no time."""
    parser = argparse.ArgumentParser(description="Measure everything on a GPU and write one file.")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="7b", help="size of the models")
    parser.add_argument("--smaller", default="1.5b", help="size that generates answers first")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all parts together")
    parser.add_argument("--out", type=Path, default=Path("gpu-report.md"))
    options = parser.parse_args(given)
    chosen = parts(options.device, options.shape, options.smaller)
    outcomes = measure(chosen, options.out, options.seconds)
    print(f"wrote {options.out}")
    return int(any(outcome.status != 0 for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
