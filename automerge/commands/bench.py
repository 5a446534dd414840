"""Run benchmarks and show them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from automerge.errors import ConfigError, Fault, nearest
from automerge.machine.devices import device_fault
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.bench.generate import ExamTime
    from automerge.bench.score import ScoreTime
    from automerge.bench.slopes import SlopeTime

BYTES_FREE = 3 * 10**9
"""Memory left for the rest of the machine."""


def print_merge_times(
    console: Console,
    shape: str,
    sources: int,
    methods: Sequence[str],
    repeats: int,
    device: str,
    as_json: bool,
) -> None:
    """Time merging, printing a line per method as it finishes; JSON at the end if asked for.

    Raises ConfigError for unknown names, or where the models do not fit into memory, and
    PreflightError for a GPU that is not there.
    """
    import torch

    from automerge.bench.merge import DEFAULT, bench_merge
    from automerge.bench.shapes import SIZES
    from automerge.methods import METHODS
    from automerge.worker.worker import choose_device

    faults = [
        f"unknown method {method!r}{nearest(method, tuple(METHODS))}"
        for method in methods
        if method not in METHODS
    ]
    faults += unknown_shape(shape)
    faults += outside_limits(("--sources", sources, 2, 16), ("--repeats", repeats, 1, 1000))
    if not faults:
        needed = (sources + 2) * 2 * SIZES[shape].n_parameters
        faults += too_large(needed, "a smaller --shape or fewer --sources")
    faults += unknown_device(device)
    if faults:
        raise ConfigError([Fault(fault) for fault in faults])
    where = choose_device(device)
    threads = torch.get_num_threads()
    if not as_json:
        say(
            console,
            f"{SIZES[shape].n_parameters / 1e6:.0f} M parameters in bfloat16 on {where}, {threads} "
            f"thread(s); ratio: to copying the bytes a merge reads and writes\n"
            f"{'method':<18} {'sources':>7} {'first s':>8} {'merge s':>8} {'GB/s':>6} {'ratio':>6}",
        )
    times = []
    for time in bench_merge(shape, sources, methods or DEFAULT, repeats, where):
        times.append(time.plain())
        if not as_json:
            say(
                console,
                f"{time.method:<18} {time.sources:>7} {time.first:>8.2f} {time.merge:>8.3f} "
                f"{time.bandwidth / 1e9:>6.1f} {time.ratio:>6.2f}",
            )
    if as_json:
        found = {"shape": shape, "device": where, "threads": threads, "times": times}
        say(console, json.dumps(found, indent=1))


def print_score_times(
    console: Console,
    shape: str | None,
    tasks: Sequence[str],
    context: int | None,
    choice: int | None,
    fewshot: int,
    items: int,
    batch_size: int,
    repeats: int,
    device: str,
    as_json: bool,
) -> None:
    """Time scoring, printing a line per repeat, then medians; JSON at the end if asked for.

    `context` and `choice`, given together, are the lengths of synthetic items that replace
    tasks. Raises ConfigError for unknown names, or where the models do not fit into memory, and
    PreflightError for a GPU that is not there.
    """
    from automerge.bench.score import ScoreTime, Work, bench_score
    from automerge.bench.score_tasks import TASKS, Lengths
    from automerge.worker.worker import choose_device

    faults = score_faults(
        shape, tasks, context, choice, fewshot, items, batch_size, repeats, device
    )
    if faults:
        raise ConfigError([Fault(fault) for fault in faults])
    where = choose_device(device)

    show = _unless(as_json, console)
    columns = ("stock s", "its model", "floor s", "merge s", "forward s", "rest s")
    lengths = None if context is None or choice is None else Lengths(context, choice)
    times: list[ScoreTime] = []
    show("building requests for every document ...")
    made = lengths or tasks or TASKS
    for step in bench_score(shape, made, fewshot, items, batch_size, repeats, where):
        if isinstance(step, Work):
            work = step
            show(
                f"{work.items} items, {work.requests} requests, {fewshot} shots; tokens: "
                f"{work.stock_tokens} by request, {work.our_tokens} ours, {work.unique_tokens} "
                f"unique; {work.parameters / 1e6:.1f} M parameters in {work.dtype} "
                f"on {where}, {work.threads} thread(s)\n"
                f"{'':<8}" + "".join(f"{name:>11}" for name in columns) + f"{'ours/floor':>12}"
                f"{'ours/stock':>12}{'differing':>11}"
            )
        else:
            times.append(step)
            show(_line(str(len(times)), step))
    median = ScoreTime.median(times)
    show(_line("median", median))
    if as_json:
        found = {
            "shape": shape or "demo",
            "device": where,
            "tasks": asdict(lengths) if lengths else list(tasks or TASKS),
            "fewshot": fewshot,
            "work": asdict(work),
            "times": [time.plain() for time in times],
            "median": median.plain(),
        }
        say(console, json.dumps(found, indent=1))


def print_slope_times(
    console: Console,
    shape: str | None,
    tasks: Sequence[str],
    context: int | None,
    choice: int | None,
    items: int,
    batch_size: int,
    repeats: int,
    method: str,
    device: str,
    as_json: bool,
) -> None:
    """Time measurements with slopes, printing a line per repeat, then medians; JSON if asked for.

    Arguments are those of `print_score_times`. Raises ConfigError for unknown names, or where the
    models do not fit into memory, and PreflightError for a GPU that is not there.
    """
    from automerge.bench.score_tasks import TASKS, Lengths
    from automerge.bench.slopes import SlopeTime, SlopeWork, bench_slopes
    from automerge.methods import METHODS
    from automerge.worker.worker import choose_device

    faults = score_faults(shape, tasks, context, choice, 0, items, batch_size, repeats, device)
    if method not in METHODS:
        faults.append(f"unknown method {method!r}{nearest(method, tuple(METHODS))}")
    if faults:
        raise ConfigError([Fault(fault) for fault in faults])
    where = choose_device(device)

    show = _unless(as_json, console)
    lengths = None if context is None or choice is None else Lengths(context, choice)
    times: list[SlopeTime] = []
    made = lengths or tasks or TASKS
    for step in bench_slopes(shape, made, items, batch_size, repeats, method, where):
        if isinstance(step, SlopeWork):
            work = step
            show(
                f"{work.items} items, {work.requests} requests; {work.parameters / 1e6:.1f} M "
                f"parameters in {work.dtype} on {where}, {work.threads} thread(s), {method}, "
                f"{work.numbers} numbers\n"
                f"MB: weights {work.weights / 1e6:.0f}, kept for a batch {work.graph / 1e6:.0f}, "
                f"two gradients {work.gradients / 1e6:.0f}; peak beside the weights "
                f"{work.peak / 1e6:.0f}\n"
                f"{'':<8}{'floor s':>11}{'forward s':>11}{'slopes s':>11}{'to forward':>12}"
                f"{'to floor':>12}{'CPU, to fwd':>13}"
            )
        else:
            times.append(step)
            show(_slope_line(str(len(times)), step))
    median = SlopeTime.median(times)
    show(_slope_line("median", median))
    if as_json:
        found = {
            "shape": shape or "demo",
            "device": where,
            "method": method,
            "tasks": asdict(lengths) if lengths else list(tasks or TASKS),
            "work": asdict(work),
            "times": [time.plain() for time in times],
            "median": median.plain(),
        }
        say(console, json.dumps(found, indent=1))


def _slope_line(name: str, time: SlopeTime) -> str:
    parts = "".join(f"{part:>11.3f}" for part in (time.floor, time.forward, time.slopes))
    ratios = f"{time.to_forward:>12.2f}{time.to_floor:>12.2f}{time.cpu_to_forward:>13.2f}"
    return f"{name:<8}{parts}{ratios}"


def print_generation_times(
    console: Console,
    shape: str | None,
    fewshot: int,
    items: int,
    mean: int,
    longest: int,
    batch_size: int,
    repeats: int,
    device: str,
    as_json: bool,
) -> None:
    """Time generated answers, printing a line per repeat, then medians; JSON if asked for.

    Raises ConfigError for unknown names, or where the models do not fit into memory, and
    PreflightError for a GPU that is not there.
    """
    from automerge.bench.generate import Exam, ExamTime, ExamWork, bench_generate
    from automerge.worker.worker import choose_device

    faults = shape_faults(shape) + unknown_device(device)
    faults += outside_limits(
        ("--fewshot", fewshot, 0, 64),
        ("--items", items, 1, 2000),
        ("--mean", mean, 2, 100_000),
        ("--longest", longest, 1, 8192),
        ("--batch-size", batch_size, 1, 65536),
        ("--repeats", repeats, 1, 1000),
    )
    if faults:
        raise ConfigError([Fault(fault) for fault in faults])
    where = choose_device(device)

    show = _unless(as_json, console)
    exam = Exam(items, fewshot, mean, longest)
    times: list[ExamTime] = []
    for step in bench_generate(shape, exam, batch_size, repeats, where):
        if isinstance(step, ExamWork):
            work = step
            show(
                f"{work.items} items, {fewshot} shots; tokens: {work.prompt_tokens} of prompts, "
                f"{work.unique_tokens} unique, {work.answer_tokens} of answers, at most "
                f"{work.longest_answer} each, {work.rows} at once; {work.parameters / 1e6:.1f} M "
                f"parameters in {work.dtype} on {where}, {work.threads} thread(s)\n"
                f"{'':<8}{'static s':>11}{'ours s':>11}{'floor s':>11}{'ours/static':>13}"
                f"{'ours/floor':>12}{'in CPU time':>13}{'differing':>11}"
            )
        else:
            times.append(step)
            show(_generation_line(str(len(times)), step))
    median = ExamTime.median(times)
    show(_generation_line("median", median))
    if as_json:
        found = {
            "shape": shape or "demo",
            "device": where,
            "exam": asdict(exam),
            "work": asdict(work),
            "times": [time.plain() for time in times],
            "median": median.plain(),
        }
        say(console, json.dumps(found, indent=1))


def _generation_line(name: str, time: ExamTime) -> str:
    parts = "".join(f"{part:>11.3f}" for part in (time.static, time.ours, time.floor))
    ratios = f"{time.to_static:>13.3f}{time.to_floor:>12.2f}{time.cpu_to_static:>13.3f}"
    return f"{name:<8}{parts}{ratios}{time.differing:>11}"


def _unless(as_json: bool, console: Console) -> Callable[[str], None]:
    """Return what shows a line while a benchmark runs: nothing where only JSON is asked for."""

    def show(line: str) -> None:
        if not as_json:
            say(console, line)

    return show


def shape_faults(shape: str | None) -> list[str]:
    """Return the faults of a shape whose base and three fine-tunes are to be in memory."""
    from automerge.bench.shapes import SIZES

    faults = [] if shape is None else unknown_shape(shape)
    if shape in SIZES:
        faults += too_large(14 * SIZES[shape].n_parameters, "a smaller --shape")
    return faults


def outside_limits(*limits: tuple[str, int | None, int, int]) -> list[str]:
    """Return the faults of options, each with its value and the least and most it may be."""
    return [
        f"{name} must lie in [{low}, {high}]; got {value}"
        for name, value, low, high in limits
        if value is not None and not low <= value <= high
    ]


def score_faults(
    shape: str | None,
    tasks: Sequence[str],
    context: int | None,
    choice: int | None,
    fewshot: int,
    items: int,
    batch_size: int,
    repeats: int,
    device: str,
) -> list[str]:
    """Return the faults of a scoring benchmark's arguments."""
    from automerge.bench.score_tasks import CHOICE_TASKS, MAX_SHOTS

    faults = [
        f"--task must be one of {', '.join(CHOICE_TASKS)}, whose answers are choices; got {task!r}"
        f"{nearest(task, CHOICE_TASKS)}"
        for task in tasks
        if task not in CHOICE_TASKS
    ]
    if (context is None) != (choice is None) or (tasks and context is not None):
        faults.append("--context and --choice are given together, and without --task")
    faults += shape_faults(shape)
    faults += outside_limits(
        *(("--fewshot", fewshot, 0, MAX_SHOTS), ("--items", items, 1, 2000)),
        *(("--context", context, 1, 4096), ("--choice", choice, 1, 1024)),
        *(("--batch-size", batch_size, 1, 65536), ("--repeats", repeats, 1, 1000)),
    )
    faults += unknown_device(device)
    return faults


def _line(name: str, time: ScoreTime) -> str:
    parts = (
        time.stock,
        time.stock_forward,
        time.floor,
        time.merge,
        time.forward,
        time.rest,
    )
    cells = "".join(f"{part:>11.3f}" for part in parts)
    return f"{name:<8}{cells}{time.to_floor:>12.2f}{time.to_stock:>12.3f}{time.differing:>11}"


def unknown_shape(shape: str) -> list[str]:
    """Return the fault, if any, of a shape's name."""
    from automerge.bench.shapes import SIZES

    known = shape in SIZES
    return [] if known else [f"unknown shape {shape!r}: expected one of {', '.join(SIZES)}"]


def unknown_device(device: str) -> list[str]:
    """Return the fault, if any, of a device's name."""
    problem = device_fault(device)
    return [] if problem is None else [f"--device: {problem}"]


def too_large(needed: int, advice: str) -> list[str]:
    """Return the fault, if any, of needing more bytes than are free."""
    from automerge.merging import free_host_bytes

    free = free_host_bytes()
    if free is None or needed <= free - BYTES_FREE:
        return []
    return [
        f"this needs {needed / 1e9:.1f} GB plus {BYTES_FREE / 1e9:.0f} GB for everything else; "
        f"{free / 1e9:.1f} GB is free: use {advice}"
    ]
