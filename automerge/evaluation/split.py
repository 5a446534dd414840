"""Cut every task's documents once into search, select and test parts, by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from automerge.errors import Fault, PreflightError
from automerge.evaluation.duplicates import find_clusters
from automerge.trial import PARTS, Items, Part

SHARES: Mapping[Part, float] = MappingProxyType({"search": 0.5, "select": 0.25, "test": 0.25})
"""Shares of a task's documents unless the configuration says otherwise."""
MIN_ITEMS = 8
"""Fewer items than this in a part say little about a model."""


@dataclass(frozen=True)
class Split:
    """Item ids of each part, by leaf task; `digest` identifies documents and cut together.

    `clusters` holds the number of every document's cluster, by doc id: documents of a cluster are
    in the same part and are not independent. `notes` say what could not be kept together or was
    left out.
    """

    parts: Mapping[Part, Items]
    digest: str
    clusters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def items(self, part: Part, tasks: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        """Return the items of one part, of all leaf tasks or of some."""
        chosen = self.parts[part]
        return {task: chosen[task] for task in (chosen if tasks is None else tasks)}


@dataclass(frozen=True)
class SplitPlan:
    """How to cut: shares of search, select and test, a salt, and the most items per objective.

    A document's part depends on the content of its cluster and the salt alone, so that documents
    added to a task later move others only by joining their cluster.
    """

    fractions: Mapping[Part, float] = field(default_factory=lambda: SHARES)
    max_items: Mapping[Part, int] = field(default_factory=dict)
    salt: str = "automerge"

    def __post_init__(self) -> None:
        shares = [self.fractions.get(part, 0.0) for part in PARTS]
        if min(shares) < 0 or abs(sum(shares) - 1.0) > 1e-9:
            raise ValueError(f"the shares of {', '.join(PARTS)} must add up to 1; got {shares}")

    def part(self, unit: float, among: Sequence[Part] = PARTS) -> Part:
        """Return the part that holds a number from [0, 1), among parts in proportion to shares."""
        shares = {part: self.fractions.get(part, 0.0) for part in PARTS if part in among}
        total = 1.0 if len(shares) == len(PARTS) else sum(shares.values())
        limit = 0.0
        *others, last = shares
        for part in others:
            limit += shares[part]
            if unit * total < limit:
                return part
        return last


def document_hash(document: object, salt: str = "") -> str:
    """Return the SHA-256 of a document's canonical JSON."""
    text = json.dumps(
        document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain
    )
    return hashlib.sha256(f"{salt}\0{text}".encode(errors="surrogatepass")).hexdigest()


def split_documents(
    documents: Mapping[str, Sequence[object]],
    objectives: Mapping[str, Sequence[str]],
    plan: SplitPlan,
    own: Mapping[str, Sequence[Part]] = MappingProxyType({}),
    held_out: Collection[str] = (),
) -> Split:
    """Assign every document of every leaf task to one part.

    `documents` maps leaf tasks to documents in lm-eval's order, `objectives` maps objective names
    to their leaf tasks. Documents of a cluster (see `find_clusters`) land in the same part, also
    across tasks; a cluster of one, or of equal documents, lands where its hash says. Under a limit,
    an objective keeps the items with the smallest hashes, pooled over its leaf tasks.

    `own` names the parts that the documents of a leaf task may be in, for tasks with their own
    dataset splits. A cluster that spans such tasks goes to the last part that any of its documents
    may be in; its documents that cannot be there are left out.

    Objectives that are `held_out` have test items only: all documents of leaf tasks that no other
    objective has, and the test items of those they share.

    Raises:
        PreflightError: a part would hold fewer than `MIN_ITEMS` items of an objective.
    """
    searched = {name: tasks for name, tasks in objectives.items() if name not in held_out}
    shared = {task for tasks in searched.values() for task in tasks}
    own = {**own, **{task: ("test",) for task in documents if task not in shared}}
    hashes = {
        task: [document_hash(document, plan.salt) for document in docs]
        for task, docs in documents.items()
    }
    clusters = find_clusters(documents, hashes)
    assigned = _assign(hashes, clusters.of, plan, own)
    drawn: dict[Part, dict[str, list[tuple[str, int]]]] = {
        part: {task: [] for task in documents} for part in PARTS
    }
    notes = list(clusters.notes)
    for task, digests in hashes.items():
        left_out = 0
        for doc_id, (digest, cluster) in enumerate(zip(digests, clusters.of[task], strict=True)):
            part = assigned[cluster]
            if part in own.get(task, PARTS):
                drawn[part][task].append((digest, doc_id))
            else:
                left_out += 1
        if left_out:
            notes.append(
                f"task {task!r}: {left_out} documents are left out, because near-duplicates of "
                "them are in the dataset split of a later part"
            )

    faults = []
    for name, tasks in objectives.items():
        for part in PARTS:
            count = sum(len(drawn[part][task]) for task in tasks)
            if name in held_out and part != "test":
                continue
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
        part: _capped(
            drawn[part],
            objectives if part == "test" else searched,
            plan.max_items.get(part),
        )
        for part in PARTS
    }
    content = hashlib.sha256(
        json.dumps([hashes, parts], sort_keys=True, separators=(",", ":")).encode()
    )
    return Split(parts, content.hexdigest(), clusters.of, tuple(notes))


def _assign(
    hashes: Mapping[str, Sequence[str]],
    clusters: Mapping[str, Sequence[int]],
    plan: SplitPlan,
    own: Mapping[str, Sequence[Part]],
) -> dict[int, Part]:
    """Assign a part to every cluster, by its smallest hash.

    For several documents it is hashed again, since the smallest of many numbers is a small one.
    """
    members: dict[int, set[str]] = {}
    allowed: dict[int, set[tuple[Part, ...]]] = {}
    for task, digests in hashes.items():
        parts = tuple(own.get(task, PARTS))
        for digest, cluster in zip(digests, clusters[task], strict=True):
            members.setdefault(cluster, set()).add(digest)
            allowed.setdefault(cluster, set()).add(parts)
    assigned = {}
    for cluster, distinct in members.items():
        name = min(distinct)
        if len(distinct) > 1:
            name = hashlib.sha256(name.encode()).hexdigest()
        shared = [part for part in PARTS if all(part in parts for parts in allowed[cluster])]
        last = max((part for parts in allowed[cluster] for part in parts), key=PARTS.index)
        assigned[cluster] = plan.part(int(name[:16], 16) / 2.0**64, shared or [last])
    return assigned


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
