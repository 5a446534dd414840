"""The Fisher information of masks: one factor per head and per feed-forward unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.checkpoints.places import places
from automerge.checkpoints.symmetries.roles import (
    KEY,
    OUTPUT,
    QUERY,
    UNITS,
    Anatomy,
    Group,
    Part,
    anatomy,
)
from automerge.errors import PreflightError
from automerge.evidence.gradients import SEED, backward_from_drawn_labels, watched
from automerge.evidence.pieces import Pieces, Progress, counted

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_READS_UNITS = re.compile(r"(^|\.)(down_proj|w2|c_proj|fc2|dense_4h_to_h)\.weight$")
"""Of the tensors with an axis of feed-forward units, those whose inputs these are."""


def gather_squared_mask_gradient(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Average squared gradients of log p(label) with respect to masks that are 1.

    A mask m multiplies what a head or a feed-forward unit puts out (Thennal et al. 2024,
    arXiv:2403.09891). It does the same as if it multiplied the columns of the output projection W
    that read it, so ∂/∂mⱼ = Σ Wᵢⱼ ∂/∂Wᵢⱼ over those columns. Labels and sums are those of
    `gather_squared_gradient`. As in the authors' code, rows of queries and keys count as much as
    their head and rows into feed-forward units as much as their unit; values and the attention's
    outputs as much as the layer's mean head, the feed-forward part's outputs as its mean unit; and
    everything else as the mean over layers of the mean head plus the mean unit.

    Args:
        model: a live model.
        tensors: all its parameters, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called after every sequence.

    Returns:
        Per tensor, of a shape that broadcasts to the tensor's, the mean over all tokens, in float32
        on the host, in nats².

    Raises:
        PreflightError: what counts heads and units is not known for this architecture.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        body = anatomy(model.config.to_dict(), shapes)
    except PreflightError as error:
        raise PreflightError(f"has no masks of heads and units: {error}") from error
    read = _projections(body)
    sums: dict[Group, Tensor] = {}

    def square(name: str, gradient: Tensor) -> None:
        axis, group = read[name]
        products = (tensors[name].detach().float() * gradient.float()).movedim(axis, 0)
        blocks = body.shapes.n_heads if group.role == OUTPUT else len(products)
        squared = products.reshape(blocks, -1).sum(1).square()
        sums[group] = sums[group] + squared if group in sums else squared

    with watched(model, {name: tensors[name] for name in read}, square):
        for number, piece in enumerate(counted(pieces, progress), start=1):
            backward_from_drawn_labels(model, piece, SEED + number)
    n_tokens = sum(map(len, pieces))
    masks = Masks(body, {group: (total / n_tokens).cpu() for group, total in sums.items()})
    return masks.spread()


def _projections(body: Anatomy) -> dict[str, tuple[int, Group]]:
    """Return, by name, which axis of an output projection has the heads or units that it reads."""
    return {
        name: (axis, part.group)
        for name, axes in body.axes.items()
        for axis, parts in enumerate(axes)
        for part in parts
        if part.group.role == OUTPUT or (part.group.role == UNITS and _READS_UNITS.search(name))
    }


@dataclass(frozen=True)
class Masks:
    """A number for each head and unit, by group: (heads,) or (units,)."""

    body: Anatomy
    values: Mapping[Group, Tensor]

    def spread(self) -> dict[str, Tensor]:
        """Return every tensor's numbers, of a shape that broadcasts to the tensor's."""
        import torch

        layers = [self._heads(n).mean() + self._units(n).mean() for n in self.body.layers]
        everything = torch.stack(layers).mean()
        found = {}
        for name, place in places(self.body.axes).items():
            axes = self.body.axes[name]
            shape, value = [1] * len(axes), everything
            if place.layer is not None and place.component in ("attention", "mlp"):
                inner = self._heads if place.component == "attention" else self._units
                value = inner(place.layer).mean()
            for axis, parts in enumerate(axes):
                if any(part.group.layer is not None for part in parts):
                    value = self._along(name, parts, self.body.lengths[name][axis])
                    shape[axis] = value.numel()
            found[name] = value.reshape(shape).clone()
        return found

    def _along(self, name: str, parts: Sequence[Part], length: int) -> Tensor:
        """Return one number per entry of an axis, or a single one for all."""
        import torch

        if len(parts) == 1 and parts[0].entries is None:
            return self._rows(name, parts[0].group)
        found = torch.empty(length)
        for part in parts:
            found[torch.tensor(part.entries)] = self._rows(name, part.group)
        return found

    def _rows(self, name: str, group: Group) -> Tensor:
        """Return one number per entry of a group, or a single one for all."""
        assert group.layer is not None
        shapes = self.body.shapes
        size = shapes.head_size
        if group.role == UNITS:
            units = self.values[group]
            return units.mean() if _READS_UNITS.search(name) else units
        heads = self._heads(group.layer)
        if group.role == QUERY:
            return heads.repeat_interleave(size)
        if group.role == KEY:
            return heads.reshape(-1, shapes.per_key).mean(1).repeat_interleave(size)
        return heads.mean()

    def _heads(self, layer: int) -> Tensor:
        return self.values[Group(OUTPUT, layer)]

    def _units(self, layer: int) -> Tensor:
        """Return the numbers of all units of a layer, those of experts one after the other."""
        import torch

        own = [group for group in self.values if group.role == UNITS and group.layer == layer]
        return torch.cat([self.values[group] for group in own])
