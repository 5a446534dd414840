"""The alignment that brings a model nearest to its base, found part by part.

Weight matching by coordinate descent (Ainsworth et al. 2023, arXiv:2209.04836, algorithm 1): with
all other parts held, each has an exact solution. No step makes the models' inner product smaller,
so an aligned source is never farther from its base than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from automerge.checkpoints.symmetries.match import (
    assignment,
    by_head,
    circuits,
    grouped_assignment,
    orthogonal,
    planar,
    planar_circuits,
    traces,
)
from automerge.checkpoints.symmetries.roles import (
    HEADS,
    KEY,
    OUTPUT,
    QUERY,
    STREAM,
    UNITS,
    VALUE,
    Anatomy,
    Group,
    Part,
    Shapes,
    entries_first,
)
from automerge.checkpoints.symmetries.transform import Heads, Transform

if TYPE_CHECKING:
    from torch import Tensor

MAX_SWEEPS = 50
"""Far more than are ever needed: sweeps end when nothing changes."""
TOLERANCE = 1e-7
"""A change must raise the inner product by this share of the norms; less is rounding."""

Read: TypeAlias = Callable[[str], "Tensor"]
Similarities: TypeAlias = Mapping[str, "Tensor"]


class MatchHeads(Protocol):
    """Returns what is done with a layer's heads, given the similarities of `HEADS`."""

    def __call__(self, similar: Similarities, shapes: Shapes) -> Heads: ...


@dataclass(frozen=True)
class Pair:
    """A base and a source with the same anatomy; tensors are read when they are needed."""

    anatomy: Anatomy
    base: Read
    source: Read


def permuted_heads(similar: Similarities, shapes: Shapes) -> Heads:
    """Permute heads, entry by entry the same: query heads only among those of one key head, which
    all go with it."""
    size = shapes.head_size
    scores = traces(by_head(similar[QUERY], size)) + traces(by_head(similar[OUTPUT], size))
    shared = traces(by_head(similar[KEY], size)) + traces(by_head(similar[VALUE], size))
    return Heads(*grouped_assignment(scores + _spread(shared, shapes), shapes.per_key))


def rotated_heads(similar: Similarities, shapes: Shapes) -> Heads:
    """Permute heads and rotate within them (Zhang et al. 2025, arXiv:2502.00264): W_Q and W_K by
    one rotation, which cancels in Q Kᵀ, and W_V and W_O by another, which cancels in O V.

    With rotary embedding, queries and keys are only rotated within the pairs of entries that it
    rotates. Heads are matched by the inner products of their circuits, which rotations do not
    change.
    """
    import torch

    size, per = shapes.head_size, shapes.per_key
    blocks = {kind: by_head(similar[kind], size) for kind in HEADS}
    wide = {kind: _repeated(blocks[kind], per) for kind in (KEY, VALUE)}
    turned, still = shapes.rotary, slice(shapes.rotary, None)
    scores = _unit(circuits(blocks[OUTPUT], wide[VALUE]))
    if shapes.rotates:
        first = (b[..., :turned, :turned] for b in (blocks[QUERY], wide[KEY]))
        rest = (b[..., still, still] for b in (blocks[QUERY], wide[KEY]))
        scores = scores + _unit(planar_circuits(*first) + circuits(*rest))
    else:
        scores = scores + _unit(traces(blocks[QUERY]) + traces(wide[KEY]))
    queries, keys = grouped_assignment(scores, per)
    values = _combined(blocks[VALUE], blocks[OUTPUT], queries, keys)
    heads = Heads(queries, keys, values=orthogonal(values).float())
    if not shapes.rotates:
        return heads
    both = _combined(blocks[KEY], blocks[QUERY], queries, keys)
    turns = torch.zeros_like(both, dtype=torch.float64)
    turns[..., :turned, :turned] = planar(both[..., :turned, :turned])
    turns[..., still, still] = orthogonal(both[..., still, still])
    return replace(heads, turns=turns.float())


MATCHES: Mapping[str, MatchHeads] = {
    "git_rebasin": permuted_heads,
    "rotation_fusion": rotated_heads,
}
"""How heads are matched; units and the stream are permuted in both."""


def _combined(shared: Tensor, own: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Return the similarities of matched heads, summed over those that rotate together."""
    import torch

    n = len(keys)
    heads = own[torch.arange(len(queries)), queries]
    total: Tensor = heads.reshape(n, -1, *heads.shape[1:]).sum(1)
    return total + shared[torch.arange(n), keys]


def _spread(scores: Tensor, shapes: Shapes) -> Tensor:
    """Share scores of key heads among the query heads of both sides."""
    return _repeated(scores, shapes.per_key) / shapes.per_key


def _repeated(blocks: Tensor, times: int) -> Tensor:
    return blocks.repeat_interleave(times, dim=0).repeat_interleave(times, dim=1)


def _unit(scores: Tensor) -> Tensor:
    """Scale scores of one kind, so that they can be added to those of another."""
    largest = float(scores.abs().max())
    return scores / largest if largest > 0 else scores


def aligned(pair: Pair, match: MatchHeads) -> Transform:
    """Return the alignment of a source with its base.

    Begun twice: from the order as it is, and from the stream's order by embeddings and head, which
    know the tokens. The result with the larger inner product is taken.
    """
    given = _sweeps(pair, match, unchanged(pair.anatomy))
    by_tokens = assignment(_stream(pair, None))
    if _same(by_tokens, unchanged(pair.anatomy).stream):
        return given
    other = _sweeps(pair, match, replace(unchanged(pair.anatomy), stream=by_tokens))
    return max(given, other, key=lambda found: inner_product(pair, found))


def _sweeps(pair: Pair, match: MatchHeads, start: Transform) -> Transform:
    """Solve for layers and stream in turn until nothing changes."""
    import torch

    transform = start
    for _ in range(MAX_SWEEPS):
        before = transform
        for layer in pair.anatomy.layers:
            transform = _layer(pair, match, transform, layer)
        similar = _stream(pair, transform)
        stream = assignment(similar)
        rows = torch.arange(len(stream))
        gain = similar[rows, stream].sum() - similar[rows, transform.stream].sum()
        if gain > TOLERANCE * similar.abs().sum():
            transform = replace(transform, stream=stream)
        if _equal(before, transform):
            break
    return transform


def _layer(pair: Pair, match: MatchHeads, transform: Transform, layer: int) -> Transform:
    """Solve for the heads and units of one layer."""
    shapes = pair.anatomy.shapes
    found = similarities(pair, transform, layer)
    similar = {group.role: s for group, s in found.items() if group.role in HEADS}
    if len(similar) == len(HEADS):
        held, new = transform.heads[layer], match(similar, shapes)
        if _better(_heads_product(similar, new, shapes), _heads_product(similar, held, shapes)):
            transform = replace(transform, heads={**transform.heads, layer: new})
    for group, similarity in found.items():
        if group.role == UNITS:
            key = (layer, group.expert)
            order = assignment(similarity)
            if _better(_product(similarity, order), _product(similarity, transform.units[key])):
                transform = replace(transform, units={**transform.units, key: order})
    return transform


def _better(new: float, held: float) -> bool:
    return new > held + TOLERANCE * max(abs(new), abs(held))


def _product(similarity: Tensor, order: Tensor) -> float:
    import torch

    return float(similarity[torch.arange(len(order)), order].double().sum())


def _heads_product(similar: Similarities, heads: Heads, shapes: Shapes) -> float:
    """Return the inner product of a layer's heads: Σ ⟨A, R B⟩."""
    import torch

    total = 0.0
    for kind in HEADS:
        order = heads.queries if kind in (QUERY, OUTPUT) else heads.keys
        rotation = heads.turns if kind in (QUERY, KEY) else heads.values
        own = by_head(similar[kind], shapes.head_size)[torch.arange(len(order)), order]
        if rotation is None:
            total += float(traces(own).double().sum())
        else:
            repeated = rotation.repeat_interleave(len(own) // len(rotation), dim=0)
            total += float((own.double() * repeated.double()).sum())
    return total


def similarities(pair: Pair, transform: Transform, layer: int) -> dict[Group, Tensor]:
    """Return A Bᵀ for each group of a layer, B with all other parts as they are held."""
    only_stream = Transform(transform.stream)
    found: dict[Group, Tensor] = {}
    for name, axes in pair.anatomy.in_layer(layer).items():
        ours = pair.base(name)
        theirs = only_stream.apply(pair.source(name), axes, pair.anatomy.shapes)
        for number, axis in enumerate(axes):
            for part in axis:
                if part.group.layer is not None:
                    _add(found, part.group, ours, theirs, number, part)
    return found


def _stream(pair: Pair, transform: Transform | None) -> Tensor:
    """Return A Bᵀ for the stream; without a transform, over what depends on nothing else."""
    found: dict[Group, Tensor] = {}
    still = Transform(unchanged(pair.anatomy).stream)
    for name, axes in pair.anatomy.in_stream.items():
        if transform is None and any(p.group.role != STREAM for axis in axes for p in axis):
            continue
        held = still if transform is None else replace(transform, stream=still.stream)
        ours = pair.base(name)
        theirs = held.apply(pair.source(name), axes, pair.anatomy.shapes)
        for number, axis in enumerate(axes):
            for part in axis:
                if part.group.role == STREAM:
                    _add(found, part.group, ours, theirs, number, part)
    return found[Group(STREAM)]


def _add(
    found: dict[Group, Tensor], group: Group, ours: Tensor, theirs: Tensor, axis: int, part: Part
) -> None:
    product = entries_first(ours, axis, part) @ entries_first(theirs, axis, part).T
    found[group] = found[group] + product if group in found else product


def inner_product(pair: Pair, transform: Transform) -> float:
    """Return ⟨base, aligned source⟩ over all tensors that have symmetries, in float64."""
    total = 0.0
    for name, axes in pair.anatomy.axes.items():
        theirs = transform.apply(pair.source(name), axes, pair.anatomy.shapes)
        total += float((pair.base(name).double() * theirs.double()).sum())
    return total


def unchanged(anatomy: Anatomy) -> Transform:
    """Return the transform that changes nothing."""
    import torch

    shapes, sizes = anatomy.shapes, anatomy.sizes
    heads, keys = torch.arange(shapes.n_heads), torch.arange(shapes.n_key_heads)
    return Transform(
        torch.arange(sizes[Group(STREAM)]),
        {g.layer: Heads(heads, keys) for g in sizes if g.role == VALUE and g.layer is not None},
        {
            (g.layer, g.expert): torch.arange(size)
            for g, size in sizes.items()
            if g.role == UNITS and g.layer is not None
        },
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    import torch

    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _equal(one: Transform, other: Transform) -> bool:
    ours, theirs = one.plain(), other.plain()
    return ours.keys() == theirs.keys() and all(_same(ours[n], theirs[n]) for n in ours)
