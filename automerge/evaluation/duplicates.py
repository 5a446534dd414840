"""Find documents that must stay together: equal, nearly equal, or about the same passage."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PASSAGE_CHARACTERS = 100
"""A text of this length that two documents share word for word is a passage both depend on."""

SHINGLE = 5
SIMILAR = 0.8
"""Documents are near-duplicates from this Jaccard similarity of word 5-grams on: the threshold of
Lee et al. (2022, arXiv:2107.06499, section 4.2), which one changed word in 41 still meets."""

MAX_WORDS = 1000
"""How many words of a document are compared."""

LARGEST_SHARE, LARGEST_COUNT = 0.05, 10
"""A cluster holds at most this share of a task's documents, or this many if that is more; what more
documents than that have in common is the task's template."""

_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
_NAME = re.compile(r"(^|_)(id|ids|idx|ind|index|uid|qid|guid|uuid)$|[a-z]I[dD]$", re.IGNORECASE)
_MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93,
     0xA0761D6478BD642F], dtype=np.uint64,
)  # fmt: skip


@dataclass(frozen=True)
class Clusters:
    """The cluster of every document, by task and doc id, and what could not be kept together.

    Equal numbers mean the same cluster, also across tasks.
    """

    of: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]


def find_clusters(
    documents: Mapping[str, Sequence[object]], hashes: Mapping[str, Sequence[str]]
) -> Clusters:
    """Cluster documents by union-find; equal `hashes` mean equal documents.

    Documents are joined when they are equal, when they hold the same text of at least
    `PASSAGE_CHARACTERS` characters, or when they are near-duplicates: the bags of their word
    5-grams (Broder 1997, "On the resemblance and containment of documents") have a Jaccard
    similarity of at least `SIMILAR`, both with and without the 5-grams of the task's template.
    All pairs at the threshold are found, by prefix filtering (Bayardo et al. 2007, "Scaling up all
    pairs similarity search"). In a cluster that is too large, only equal documents stay together.
    """
    nodes: dict[tuple[str, str], int] = {}
    contents: list[object] = []
    of_node: list[str] = []
    for task, docs in documents.items():
        for digest, document in zip(hashes[task], docs, strict=True):
            if (task, digest) not in nodes:
                nodes[task, digest] = len(contents)
                contents.append(document)
                of_node.append(task)
    sizes = Counter(of_node)
    limits = {task: _limit(size) for task, size in sizes.items()}
    equal = _Sets(len(contents))
    equal.join_all(_groups((digest, node) for (_, digest), node in nodes.items()))
    joined = equal.copy()
    passages, notes = _passages(contents, of_node, sizes, limits)
    joined.join_all(passages)
    _join_similar(joined, contents, of_node, limits)
    too_large = _too_large(joined, of_node, limits)
    notes += [
        f"task {task!r}: {count} documents resemble each other in chains of more than "
        f"{limits[task]}; among these, only equal documents are kept in one part"
        for task, count in too_large.counts.items()
    ]
    numbers: dict[tuple[bool, int], int] = {}
    found: dict[str, tuple[int, ...]] = {}
    for task in documents:
        labels = []
        for digest in hashes[task]:
            node = nodes[task, digest]
            root = joined.root(node)
            alone = root in too_large.roots
            key = (alone, equal.root(node) if alone else root)
            labels.append(numbers.setdefault(key, len(numbers)))
        found[task] = tuple(labels)
    return Clusters(found, tuple(notes))


def _limit(size: int) -> int:
    return max(LARGEST_COUNT, math.ceil(LARGEST_SHARE * size))


class _Sets:
    """Disjoint sets (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def copy(self) -> _Sets:
        other = _Sets(0)
        other._parent = list(self._parent)
        return other

    def root(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)

    def join_all(self, groups: Iterable[Sequence[int]]) -> None:
        for first, *others in groups:
            for other in others:
                self.join(first, other)


def _groups(pairs: Iterable[tuple[Any, int]]) -> list[list[int]]:
    """Return the nodes of each key that several of them share."""
    found: dict[Any, list[int]] = defaultdict(list)
    for key, node in pairs:
        found[key].append(node)
    return [nodes for nodes in found.values() if len(nodes) > 1]


@dataclass(frozen=True)
class _TooLarge:
    roots: frozenset[int]
    counts: Mapping[str, int]


def _too_large(sets: _Sets, of_node: Sequence[str], limits: Mapping[str, int]) -> _TooLarge:
    members = Counter((sets.root(node), task) for node, task in enumerate(of_node))
    roots = frozenset(root for (root, task), count in members.items() if count > limits[task])
    counts: Counter[str] = Counter()
    for (_, task), count in members.items():
        if count > limits[task]:
            counts[task] += count
    return _TooLarge(roots, counts)


def _passages(
    contents: Sequence[object],
    of_node: Sequence[str],
    sizes: Mapping[str, int],
    limits: Mapping[str, int],
) -> tuple[list[list[int]], list[str]]:
    """Return documents with a long text in common; a text in too many of a task is its instruction.

    There is no note about a text that occurs in more than half of a task's documents.
    """
    found = _groups(
        (text, node)
        for node, document in enumerate(contents)
        for text in {
            " ".join(value.split())
            for _, value in _leaves(document)
            if isinstance(value, str) and len(value) >= PASSAGE_CHARACTERS
        }
        if len(text) >= PASSAGE_CHARACTERS
    )
    kept = []
    common: Counter[str] = Counter()
    for nodes in found:
        counts = Counter(of_node[node] for node in nodes)
        if all(count <= limits[task] for task, count in counts.items()):
            kept.append(nodes)
            continue
        for task, count in counts.items():
            common[task] += limits[task] < count <= sizes[task] / 2
    notes = [
        f"task {task!r}: {count} texts each occur in more than {limits[task]} documents and are "
        "treated as instructions, not as passages; these documents may be in different parts"
        for task, count in common.items()
        if count
    ]
    return kept, notes


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield a document's values with their keys, in an order that does not depend on its own."""
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield from _leaves(value[name], str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, value


def _words(document: object) -> list[list[str]]:
    """Yield the words and signs of each field, without the document's names."""
    fields: list[list[str]] = []
    room = MAX_WORDS
    for key, value in _leaves(document):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        if _NAME.search(key) or room <= 0:
            continue
        text = str(value)[: 40 * room]
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())[:room]
        if words:
            fields.append(words)
            room -= len(words)
    return fields


@dataclass(frozen=True)
class _Bags:
    """Each node's shingles as sorted numbers, complete and without those of a template.

    Numbers grow with the number of documents that hold the shingle, so the rarest come first.
    """

    whole: list[NDArray[np.int64]]
    own: list[NDArray[np.int64]]
    shared_from: int
    """Shingles with lower numbers occur in only one document."""


def _join_similar(
    sets: _Sets, contents: Sequence[object], of_node: Sequence[str], limits: Mapping[str, int]
) -> None:
    vocabulary: dict[str, int] = {}
    texts = []
    gap = [0] * (SHINGLE - 1)
    for document in contents:
        text = list(gap)
        for words in _words(document):
            text += [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words]
            text += gap
        texts.append(np.array(text, dtype=np.uint64))
    sets.join_all(_groups((t.tobytes(), n) for n, t in enumerate(texts) if len(t) > len(gap)))
    if not vocabulary:
        return
    bags = _bags(texts, of_node, limits)
    holders: dict[int, list[int]] = defaultdict(list)
    for node in sorted(range(len(contents)), key=lambda node: len(bags.own[node])):
        own, whole = bags.own[node], bags.whole[node]
        prefix = own[: len(own) - math.ceil(SIMILAR * len(own) - 1e-9) + 1]
        rivals: dict[int, None] = {}
        for shingle in prefix[prefix >= bags.shared_from].tolist():
            rivals.update(dict.fromkeys(holders[shingle]))
            holders[shingle].append(node)
        for rival in rivals:
            if (
                len(bags.own[rival]) >= SIMILAR * len(own)
                and sets.root(rival) != sets.root(node)
                and _jaccard(whole, bags.whole[rival]) >= SIMILAR
                and _jaccard(own, bags.own[rival]) >= SIMILAR
            ):
                sets.join(node, rival)


def _jaccard(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    if min(len(a), len(b)) < SIMILAR * max(len(a), len(b)):
        return 0.0
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def _bags(
    texts: Sequence[NDArray[np.uint64]], of_node: Sequence[str], limits: Mapping[str, int]
) -> _Bags:
    counts = np.array([len(text) - SHINGLE + 1 if len(text) >= SHINGLE else 0 for text in texts])
    owner = np.repeat(np.arange(len(texts)), counts)
    hashes = np.concatenate([_shingles(text) for text in texts])
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    # The second of two equal shingles of a document is a different element: bags, not sets.
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    starts = np.flatnonzero(new)
    nth = np.arange(len(hashes)) - np.repeat(starts, np.diff(starts, append=len(hashes)))
    _, shingle = np.unique(hashes + nth.astype(np.uint64) * _MULTIPLIERS[3], return_inverse=True)

    tasks = list(limits)
    task_number = {task: number for number, task in enumerate(tasks)}
    task_of = np.array([task_number[task] for task in of_node])
    pairs, times = np.unique(shingle * len(tasks) + task_of[owner], return_counts=True)
    limit = np.array([limits[task] for task in tasks])
    template = np.zeros(int(shingle.max()) + 1, dtype=bool)
    template[pairs[times > limit[pairs % len(tasks)]] // len(tasks)] = True
    frequency = np.bincount(shingle)
    rank = np.empty_like(frequency)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))

    ranked = rank[shingle]
    order = np.lexsort((ranked, owner))
    ranked, kept = ranked[order], ~template[shingle[order]]
    ends = np.cumsum(counts)
    whole = np.split(ranked, ends[:-1])
    own = [bag[keep] for bag, keep in zip(whole, np.split(kept, ends[:-1]), strict=True)]
    return _Bags(whole, own, int(np.sum(frequency == 1)))


def _shingles(text: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a number for each run of `SHINGLE` words."""
    if len(text) < SHINGLE:
        return np.empty(0, dtype=np.uint64)
    mixed = text * _MULTIPLIERS[0]
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MULTIPLIERS[1]
    mixed ^= mixed >> np.uint64(32)
    size = len(text) - SHINGLE + 1
    total = np.zeros(size, dtype=np.uint64)
    for k in range(SHINGLE):
        total += mixed[k : k + size] * _MULTIPLIERS[k]
        total ^= total >> np.uint64(31)
    return total
