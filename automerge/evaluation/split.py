"""Cut every task's documents once into search, select and test parts, by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automerge.errors import Fault, PreflightError
from automerge.trial import PARTS, Items, Part

MIN_ITEMS = 8
"""Fewer items than this in a part say nothing about a model."""


@dataclass(frozen=True)
class Split:
    """Item ids of each part, by leaf task; `digest` names documents and cut together."""

    parts: Mapping[Part, Items]
    digest: str

    def items(self, part: Part, tasks: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Items of one part, of all leaf tasks or of some."""
        chosen = self.parts[part]
        return {task: chosen[task] for task in (chosen if tasks is None else tasks)}


@dataclass(frozen=True)
class SplitPlan:
    """How to cut: shares of search, select and test, a salt, and the most items an objective gets.

    A document's part depends on its content and the salt alone, so that documents added to a task
    later never move the others.
    """

    fractions: Mapping[Part, float] = field(
        default_factory=lambda: {"search": 0.5, "select": 0.25, "test": 0.25}
    )
    max_items: Mapping[Part, int] = field(default_factory=dict)
    salt: str = "automerge"

    def __post_init__(self) -> None:
        shares = [self.fractions.get(part, 0.0) for part in PARTS]
        if min(shares) < 0 or abs(sum(shares) - 1.0) > 1e-9:
            raise ValueError(f"the shares of {', '.join(PARTS)} must add up to 1; got {shares}")

    def part(self, unit: float) -> Part:
        """The part that holds a number from [0, 1)."""
        limit = 0.0
        for part in PARTS[:-1]:
            limit += self.fractions.get(part, 0.0)
            if unit < limit:
                return part
        return PARTS[-1]


def document_hash(document: object, salt: str = "") -> str:
    """SHA-256 of a document's canonical JSON."""
    text = json.dumps(
        document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain
    )
    return hashlib.sha256(f"{salt}\0{text}".encode(errors="surrogatepass")).hexdigest()


def split_documents(
    documents: Mapping[str, Sequence[object]],
    objectives: Mapping[str, Sequence[str]],
    plan: SplitPlan,
) -> Split:
    """Assign every document of every leaf task to one part.

    `documents` maps leaf tasks to documents in lm-eval's order, `objectives` maps objective names
    to their leaf tasks. Equal documents land in the same part, also across tasks. Under a limit an
    objective keeps the items with the smallest hashes, pooled over its leaf tasks.

    Raises:
        PreflightError: a part would hold fewer than `MIN_ITEMS` items of an objective.
    """
    hashes = {
        task: [document_hash(document, plan.salt) for document in docs]
        for task, docs in documents.items()
    }
    drawn: dict[Part, dict[str, list[tuple[str, int]]]] = {
        part: {task: [] for task in documents} for part in PARTS
    }
    for task, digests in hashes.items():
        for doc_id, digest in enumerate(digests):
            part = plan.part(int(digest[:16], 16) / 2.0**64)
            drawn[part][task].append((digest, doc_id))

    faults = []
    for name, tasks in objectives.items():
        for part in PARTS:
            count = sum(len(drawn[part][task]) for task in tasks)
            if plan.fractions.get(part, 0.0) > 0 and count < MIN_ITEMS:
                total = sum(len(hashes[task]) for task in tasks)
                faults.append(
                    Fault(
                        f"objective {name!r} would have {count} {part} items of {total} documents "
                        f"(share {plan.fractions[part]:g}); at least {MIN_ITEMS} are needed: "
                        f"give {part} a larger share or use a task with more documents"
                    )
                )
    if faults:
        raise PreflightError(faults)

    parts: dict[Part, Items] = {
        part: _capped(drawn[part], objectives, plan.max_items.get(part)) for part in PARTS
    }
    content = hashlib.sha256(
        json.dumps([hashes, parts], sort_keys=True, separators=(",", ":")).encode()
    )
    return Split(parts, content.hexdigest())


def _capped(
    drawn: Mapping[str, Sequence[tuple[str, int]]],
    objectives: Mapping[str, Sequence[str]],
    limit: int | None,
) -> Items:
    kept: dict[str, set[int]] = {task: set() for task in drawn}
    for tasks in objectives.values():
        pool = sorted((digest, doc_id, task) for task in tasks for digest, doc_id in drawn[task])
        for _, doc_id, task in pool[:limit]:
            kept[task].add(doc_id)
    return {task: tuple(sorted(ids)) for task, ids in kept.items()}


def _plain(value: Any) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
