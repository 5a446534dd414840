"""The labels of classifiers: which tensors have a row for each, and in what order."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.architecture import Architecture, architecture
from automerge.checkpoints.reader import shown
from automerge.errors import PreflightError

if TYPE_CHECKING:
    from torch import Tensor

UNNAMED = re.compile(r"LABEL_\d+")


def label_rows(config: Mapping[str, Any], own: Architecture) -> dict[str, int]:
    """Return the dimension of each tensor that counts labels, by key, for tensors that have one.

    These are found by building the architecture with one more label.
    """
    labels = own.model.config.id2label or {}
    if not labels or own.name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return {}
    others = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    try:
        wider = architecture({**others, "num_labels": len(labels) + 1})
    except PreflightError:
        return {}
    found = {}
    for part, tensor in own.parts.items():
        other = wider.parts.get(part)
        pairs = zip(tensor.shape, other.shape, strict=False) if other is not None else ()
        differing = [i for i, (a, b) in enumerate(pairs) if a != b]
        if differing:
            found[part] = differing[0]
    return found


def label_order(
    base: Architecture, source: Architecture, rows: Collection[str], of: Path
) -> tuple[list[int] | None, str | None]:
    """Return the position of each of the base's labels in a source, and a note for the user.

    `rows` are the names of the tensors that count labels; `of` is the base's folder.

    Returns:
        The positions, or None if the order is the same; the note, or None if there is none.

    Raises:
        PreflightError: the source's labels are not the base's.
    """
    ours, theirs = labels_of(base), labels_of(source)
    mine, other = ([name.casefold() for name in names] for names in (ours, theirs))
    if mine == other:
        return None, None
    if len(mine) != len(other):
        raise PreflightError(
            f"has {len(theirs)} label(s), the base {len(ours)} ({of}), so they differ in the shape "
            f"of {shown(sorted(rows))} and cannot be merged: leave it out, or merge the encoders "
            "alone, each saved without its head"
        )
    if any(all(map(UNNAMED.fullmatch, names)) for names in (ours, theirs)):
        return None, "its labels or the base's have no names: they are assumed to be in one order"
    if sorted(mine) != sorted(other) or len(set(mine)) != len(mine):
        raise PreflightError(
            f"the labels in id2label are {', '.join(theirs)}, those of the base {', '.join(ours)}; "
            "give them the base's names, each with its own number, or leave the model out"
        )
    return [other.index(name) for name in mine], (
        f"its labels are in a different order ({', '.join(theirs)}) and are rearranged to the "
        f"base's ({', '.join(ours)})"
    )


def labels_of(made: Architecture) -> list[str]:
    """Return the names of a classifier's labels, in the order of their numbers."""
    return [str(name) for _, name in sorted((made.model.config.id2label or {}).items())]


def reordered(tensor: Tensor, dimension: int, order: list[int]) -> Tensor:
    """Return a tensor with its labels rearranged along a dimension."""
    import torch

    return tensor.index_select(dimension, torch.tensor(order))
