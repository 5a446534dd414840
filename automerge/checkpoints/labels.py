"""The labels of classifiers: which tensors have a row for each, and in what order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.architecture import Architecture, architecture
from automerge.errors import PreflightError

if TYPE_CHECKING:
    from torch import Tensor

UNNAMED = re.compile(r"LABEL_\d+")


def label_rows(config: Mapping[str, Any], own: Architecture) -> dict[str, int]:
    """The dimension that counts labels, of each tensor that has one; by key.

    Found by building the architecture with one label more.
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


def label_order(base: Architecture, source: Architecture) -> tuple[list[int] | None, str | None]:
    """Where a source has each of the base's labels, None for the same order, and what to say.

    Raises PreflightError for labels that are not the base's.
    """
    ours, theirs = labels_of(base), labels_of(source)
    mine, other = ([name.casefold() for name in names] for names in (ours, theirs))
    if mine == other:
        return None, None
    if len(mine) != len(other):
        raise PreflightError(
            f"has {len(theirs)} label(s), the base {len(ours)}: their heads have other shapes and "
            "cannot be merged; merge the encoders alone (saved without a head), or leave it out"
        )
    if any(all(map(UNNAMED.fullmatch, names)) for names in (ours, theirs)):
        return None, "its labels or the base's have no names: they are taken to be in one order"
    if sorted(mine) != sorted(other) or len(set(mine)) != len(mine):
        raise PreflightError(
            f"the labels in id2label are {', '.join(theirs)}, those of the base {', '.join(ours)}; "
            "give them the base's names, each at its own number, or leave the model out"
        )
    return [other.index(name) for name in mine], (
        f"its labels are in another order ({', '.join(theirs)}), and are put in the base's "
        f"({', '.join(ours)})"
    )


def labels_of(made: Architecture) -> list[str]:
    """The names of a classifier's labels, in the order of their numbers."""
    return [str(name) for _, name in sorted((made.model.config.id2label or {}).items())]


def reordered(tensor: Tensor, dimension: int, order: list[int]) -> Tensor:
    """A tensor with its labels in another order."""
    import torch

    return tensor.index_select(dimension, torch.tensor(order))
