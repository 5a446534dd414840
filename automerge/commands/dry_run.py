"""`automerge search --dry-run`: what a search will cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.config import StudyConfig
from automerge.merging.memory import gb
from automerge.report.run_sections import duration
from automerge.session.cost import Cost, Pace, cost
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.session.open import Session


def print_cost(config: StudyConfig, console: Console) -> None:
    """Measure one candidate, print what the whole search will take, and keep nothing.

    Raises:
        AutomergeError: whatever a search would refuse.
    """
    session, found = cost(config, lambda text: say(console, text))
    for line in _lines(config, session, found):
        say(console, line)
    for warning in session.warnings:
        say(console, f"warning: {warning}")


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
        yield f"         {_pace(slopes)} with slopes ({times:.1f} times an item without)"
    several = "1 worker" if workers == 1 else f"{workers} workers"
    yield f"search   {duration(found.search)} for {config.expected_budget} trials, {several}"
    yield f"         then up to {duration(found.later)} to select and test"
    total = found.first + found.search + found.later
    yield f"total    {duration(total)} at most, at the pace of this process"
    yield (
        f"disk     export: {config.export} writes up to {found.exported} models of "
        f"{gb(found.model)}: {gb(found.exported * found.model)}"
    )
    yield f"         {gb(found.disk_free, math.floor)} is free at {Path(config.out).parent}"


def _pace(pace: Pace) -> str:
    return (
        f"{pace.seconds:.2g} s for {pace.items} items, {pace.tokens:,} tokens; "
        f"merging {pace.merge:.2g} s"
    )
