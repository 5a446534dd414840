"""Take a part's items from another dataset split than the one lm-eval scores a task on."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from automerge.errors import nearest
from automerge.trial import PARTS, Part

if TYPE_CHECKING:
    from lm_eval.api.task import Task

MAX_DOCUMENTS = 20_000
"""From a larger dataset split, this many documents are taken, evenly spaced."""


def split_faults(leaf: Task, wanted: Mapping[Part, str]) -> Iterator[tuple[str, str]]:
    """List what keeps a task's parts from coming from dataset splits, as (field, message)."""
    from lm_eval.api.task import ConfigurableTask

    if not wanted:
        return
    name = leaf.task_name
    if getattr(type(leaf), "test_docs", None) is not ConfigurableTask.test_docs:
        yield "split", f"task {name!r} chooses its documents itself, in Python: remove `split`"
        return
    known = sorted(map(str, leaf.dataset))
    for part, split in wanted.items():
        if split not in known:
            hint = nearest(split, known)
            yield (
                "split",
                f"task {name!r} has no dataset split {split!r}, asked for as {part}{hint} "
                f"(it has {', '.join(known)})",
            )
    scored = scored_split(leaf)
    if wanted.get("test", scored) != scored:
        yield (
            "split",
            f"lm-eval scores task {name!r} on the dataset split {scored!r}, and the sealed test "
            f"must be scorable by lm-eval itself; write test: {scored}, or leave test out",
        )


def scored_split(leaf: Task) -> str:
    """Return the dataset split whose documents lm-eval scores a task on."""
    return str(leaf.get_config("test_split") or leaf.get_config("validation_split"))


def on_splits(leaf: Task, wanted: Mapping[Part, str]) -> list[tuple[Task, tuple[Part, ...]]]:
    """Return the task on each of its dataset splits, with the parts to take from there.

    The task itself comes first. Parts that are not in `wanted` come from what lm-eval scores.
    """
    scored = scored_split(leaf)
    parts: dict[str, tuple[Part, ...]] = {scored: ()}
    for part in PARTS:
        split = wanted.get(part, scored)
        parts[split] = (*parts.get(split, ()), part)
    return [
        (leaf if split == scored else _on_split(leaf, split), own) for split, own in parts.items()
    ]


def _on_split(leaf: Task, split: str) -> Task:
    """Copy a task so that it scores another dataset split; it is called TASK@SPLIT.

    An item is never among its own few-shot examples: lm-eval leaves it out if both are from one
    split.
    """
    task = copy.copy(leaf)
    task._config = copy.copy(leaf._config)
    task.set_config("task", f"{leaf.task_name}@{split}")
    task.set_config("test_split", split)
    task.fewshot_cfg = replace(leaf.fewshot_cfg, split=split)
    if hasattr(leaf, "sampler"):
        task.sampler = copy.copy(leaf.sampler)
    documents = leaf.dataset[split]
    if len(documents) > MAX_DOCUMENTS:
        step = math.ceil(len(documents) / MAX_DOCUMENTS)
        documents = documents.select(range(0, len(documents), step))
    task.dataset = {split: documents}
    return task
