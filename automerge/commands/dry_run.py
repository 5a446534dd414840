"""`automerge search --dry-run`: what a search will cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.config import StudyConfig
from automerge.merging.memory import Need, gb
from automerge.report.run_sections import duration
from automerge.session.cost import Ahead, Cost, Pace, Range, ahead, cost
from automerge.session.downloading import size, time_in_words
from automerge.study import Plan
from automerge.text.say import say
from automerge.text.wrapped import hanging
from automerge.trial import count_items

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.session.open import Session

WIDTH, INDENT = 80, 9
"""Columns of a line, and of what precedes its text."""


def print_cost(config: StudyConfig, console: Console) -> None:
    """Measure one candidate, print what the whole search will take, and keep nothing.

    Where models have to be downloaded first, print only what is known without their weights.

    Raises:
        AutomergeError: whatever a search would refuse.
    """
    if (early := ahead(config)) is not None:
        for line in ahead_lines(config, early):
            say(console, line)
        return
    session, found = cost(config, lambda text: say(console, text))
    for line in cost_lines(config, session, found):
        say(console, line)


def cost_lines(config: StudyConfig, session: Session, found: Cost) -> Iterator[str]:
    """Yield what a search will take as lines that fit 80 columns, but for words that do not."""
    yield from (part for line in _lines(config, session, found) for part in _wrapped(line))
    for warning in session.warnings:
        yield from _wrapped(f"warning: {warning}")


def ahead_lines(config: StudyConfig, found: Ahead) -> Iterator[str]:
    """Yield what is known of a search before its models are downloaded."""
    yield from (part for line in _ahead_lines(config, found) for part in _wrapped(line))


def _ahead_lines(config: StudyConfig, found: Ahead) -> Iterator[str]:
    download = found.download
    yield f"study    {config.name}: nothing was downloaded but configurations and tokenizers"
    yield f"download {size(download.n_bytes)}{time_in_words(download)}"
    for name, n_bytes in download.sizes.items():
        yield f"         {name}: {size(n_bytes)}"
    yield f"         {gb(download.free, math.floor)} is free in {download.folder}"
    yield f"memory   {gb(found.need.live)} for a worker's live model, and more with slopes"
    yield from _calibration(found.need)
    there = "an unknown amount" if found.host_free is None else gb(found.host_free, math.floor)
    yield f"         {there} is free here"
    yield from _disk(config, found)
    yield (
        "next     how long a search takes can be measured once the models are here: "
        "`automerge search` downloads them, and so does `hf download ORG/NAME`"
    )


def _calibration(need: Need) -> Iterator[str]:
    if need.calibration:
        yield f"         {gb(need.calibration)} for the pass that calibrates a merge"


def _disk(config: StudyConfig, found: Ahead | Cost) -> Iterator[str]:
    yield f"disk     export: {config.export} writes {_models(found)}"
    yield f"         {gb(found.disk_free, math.floor)} is free at {Path(config.out).parent}"


def _models(found: Ahead | Cost) -> str:
    """Say how many models of which size are written."""
    if found.exported < 2:
        return f"a model of {gb(found.model)}" if found.exported else "no whole model"
    each, whole = gb(found.model), gb(found.exported * found.model)
    return f"up to {found.exported} models of {each}: {whole}"


def _lines(config: StudyConfig, session: Session, found: Cost) -> Iterator[str]:
    need, space = found.need, session.space
    slopes, workers = found.with_slopes, config.workers or 1
    yield f"study    {config.name}: nothing was kept"
    yield f"space    {len(space.roles)} dimensions: {', '.join(config.search.methods)}"
    yield f"sampler  {session.sampler}"
    if session.slopes is not None:
        yield f"slopes   {session.slopes}"
    live, device = gb(need.live), found.device_free
    yield f"memory   {live} for a worker's live model, {gb(need.step)} to merge a tensor"
    if need.engine:
        yield f"         {gb(need.engine + need.handed)} for vLLM's copy and to hand it over"
    yield from _calibration(need)
    if slopes is not None:
        yield f"         with slopes {gb(need.gradients)} more, and what a batch leaves room for"
    yield f"         {gb(need.computed)} to keep what is computed once, if there is room"
    there = "an unknown amount" if found.host_free is None else gb(found.host_free, math.floor)
    on_device = "" if device is None else f", {gb(device, math.floor)} on the GPU"
    yield f"         {there} is free here{on_device}"
    yield f"start    {duration(found.first)} until the first merge is measured"
    yield f"trial    {_pace(found.without)}"
    if slopes is not None:
        times = slopes.per_item / found.without.per_item if found.without.per_item else math.nan
        yield f"         {_pace(slopes)}, with slopes"
        yield f"         an item with slopes takes {times:.1f} times as long as one without"
    several = "1 worker" if workers == 1 else f"{workers} workers"
    earlier = f", {found.done} of them done" if found.done else ""
    trials = f"{config.expected_budget} trials{earlier}"
    yield f"search   {_span(found.search)} for {trials}, {several}"
    if (n := session.plan.n_sweep) > 0:
        yield f"         {n} of the trials are the sweep: {_sweep(session.plan, found.without)}"
    yield f"         then {_span(found.later)} to select and test"
    total = found.search + found.later
    yield f"total    {_span(Range(found.first + total.low, found.first + total.high))}"
    yield (
        "         an estimate at the pace of this process: how many trials have slopes "
        "is up to the sampler, whose own time is not in it, nor that to export models"
    )
    yield from _disk(config, found)


def _wrapped(line: str) -> list[str]:
    return hanging(line[:INDENT], line[INDENT:], WIDTH)


def _span(span: Range) -> str:
    low, high = duration(span.low), duration(span.high)
    return low if low == high else f"{low} to {high}"


def _sweep(plan: Plan, pace: Pace) -> str:
    """Say what a sweep costs a single worker: all of it is searched and selected from, and at most
    all of it tested."""
    n, items = plan.n_sweep, plan.items
    searched = n * pace.of(plan.n_items("sweep"))
    selected = n * pace.of(count_items(items.select))
    tested = n * pace.of(items.test.count)
    return (
        f"{duration(searched)} to search, up to {duration(selected)} to select and "
        f"{duration(tested)} to test"
    )


def _pace(pace: Pace) -> str:
    return (
        f"{pace.seconds:.2g} s for {pace.items} items, {pace.tokens:,} tokens; "
        f"merging {pace.merge:.2g} s"
    )
