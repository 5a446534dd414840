"""The permutation in which a source's units do what its base's do, by their correlation on text.

Activation matching (Li et al. 2016, arXiv:1511.07543; Ainsworth et al. 2023, arXiv:2209.04836, sec.
3.1): units are paired so that the sum of correlations is largest. With uniform marginals and
layers of the same width, the optimal transport of OTFusion (arXiv:2310.05719) without an entropic
term is this permutation too, and so are ZipIt's merges (arXiv:2305.03053) across two models.

Each group of units is solved for by itself: what it does is the same in whatever order all others
stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from automerge.checkpoints.symmetries.descent import Pair, similarities, unchanged
from automerge.checkpoints.symmetries.match import assignment, by_head, grouped_assignment
from automerge.checkpoints.symmetries.roles import OUTPUT, QUERY, STREAM, UNITS, Anatomy, Group
from automerge.checkpoints.symmetries.transform import Heads, Transform

if TYPE_CHECKING:
    from torch import Tensor


def taps(anatomy: Anatomy) -> dict[str, Group]:
    """Return the matrices whose inputs show what the entries of a group do, by name.

    The stream is seen where it enters a layer's attention and each of its feed-forward parts.
    """
    found: dict[str, Group] = {}
    seen: set[Group] = set()
    for name, axes in anatomy.axes.items():
        if len(axes) != 2 or not all(axes):
            continue
        outputs, inputs = reversed(axes) if anatomy.transposed else axes
        group, after = inputs[0].group, outputs[0].group
        if group.role == STREAM and (after.role not in (QUERY, UNITS) or after in seen):
            continue
        seen.add(after)
        found[name] = group
    return found


class ActivationMatching:
    """Gathers correlations, tensor by tensor, and keeps nothing of them but orders and one sum."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._taps = taps(anatomy)
        self._stream: Tensor | None = None
        self._heads: dict[int, Heads] = {}
        self._units: dict[tuple[int, str], Tensor] = {}

    def see(self, name: str, correlation: Tensor) -> None:
        """Take the correlations of the base's inputs of a tensor (rows) with the source's."""
        group = self._taps[name]
        if group.layer is None:
            self._stream = correlation if self._stream is None else self._stream + correlation
        elif group.role == UNITS:
            self._units[group.layer, group.expert] = assignment(correlation)
        elif group.role == OUTPUT:
            shapes = self._anatomy.shapes
            self._heads[group.layer] = matched_heads(correlation, shapes.head_size, shapes.per_key)

    def transform(self, pair: Pair) -> Transform:
        """Return the alignment.

        Units that were not seen are matched by weights, with all others as they are matched: the
        experts of a mixture, which see other tokens in each model.
        """
        start = unchanged(self._anatomy)
        stream = start.stream if self._stream is None else assignment(self._stream)
        found = Transform(stream, {**start.heads, **self._heads}, {**start.units, **self._units})
        unseen = start.units.keys() - self._units.keys()
        by_weights = {
            key: assignment(similarity)
            for layer in sorted({layer for layer, _ in unseen})
            for group, similarity in similarities(pair, found, layer).items()
            if group.role == UNITS and (key := (layer, group.expert)) in unseen
        }
        return Transform(found.stream, found.heads, {**found.units, **by_weights})


def matched_heads(correlation: Tensor, size: int, per_key: int) -> Heads:
    """Return the permutation of heads, and of the values and outputs within them.

    Heads are alike by the sum of squared correlations of their outputs, whatever the order and
    the signs within; then entries are matched, in the same way in all heads that share values.

    Args:
        correlation: of what heads put out, (heads · size, heads · size).
        size: entries of a head.
        per_key: heads that share keys and values.
    """
    import torch

    blocks = by_head(correlation, size)
    queries, keys = grouped_assignment(blocks.square().sum((-2, -1)), per_key)
    own = blocks[torch.arange(len(queries)), queries].reshape(-1, per_key, size, size).sum(1)
    orders = torch.stack([assignment(block) for block in own])
    if torch.equal(orders, torch.arange(size).expand_as(orders)):
        return Heads(queries, keys)
    return Heads(queries, keys, values=torch.eye(size)[orders])
