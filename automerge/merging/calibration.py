"""Calibration after the merge: REPAIR (Jordan et al. 2023, arXiv:2211.08403).

Averages of models put out less than the models do: deviations of units shrink layer by layer.
REPAIR gives each unit the mean and the deviation that the sources have there, interpolated. A unit
here is an output of a linear layer before the head, and its scale and shift are folded into the
layer's weights and bias, so the result is a plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from automerge.evidence.activations import Layer, moments, pass_through
from automerge.evidence.pieces import Pieces
from automerge.evidence.stacked_experts import Matrices
from automerge.machine.processors import one_thread

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def interpolated(each: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the mean of sources' means and deviations, each (2, units), by their weights.

    Weights below 0 count as 0; where none is above it, all sources count the same.
    """
    counted = [max(weight, 0.0) for weight in weights]
    if not sum(counted):
        counted = [1.0] * len(each)
    total = sum(counted)
    found = [part.float() * (weight / total) for part, weight in zip(each, counted, strict=True)]
    return torch.stack(found).sum(0)


def correction(found: Tensor, wanted: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of units, from what they have and should have, (2, units).

    y → (1 − a) y + a (μ* + (y − μ) σ*/σ) at strength a; units that never vary are not scaled.
    """
    (mean, deviation), (to_mean, to_deviation) = found, wanted
    alive = deviation > 0
    ratio = torch.where(alive, to_deviation / torch.where(alive, deviation, 1.0), 1.0)
    return 1 + strength * (ratio - 1), strength * (to_mean - ratio * mean)


def repair(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Module],
    experts: Mapping[nn.Module, Matrices],
    pieces: Pieces,
    wanted: Callable[[str], Tensor | None],
    strength: float,
    stored: Callable[[str], torch.dtype],
) -> dict[str, Tensor]:
    """Rescale the units of a live model's linear layers in place, from the first to the last.

    Each layer is measured with those before it repaired, in a single pass. Layers without a bias
    are only scaled. So are experts' matrices, by the tokens that each is sent.

    Args:
        model: holds the merge.
        layers: linear layers by the name of their weight.
        experts: blocks of experts, with the names of matrices.
        pieces: sequences of token ids.
        wanted: the mean and the deviation, (2, units), of a layer by name; None to leave it.
        strength: 0 changes nothing, 1 everything.
        stored: the dtype that a layer's weight is rounded to, by name.

    Returns:
        The units' scales by the name of the layer, of a shape that broadcasts to its weight's.
    """
    scales: dict[str, Tensor] = {}

    def fold(name: str, layer: Layer, rows: Tensor) -> None:
        target = None if name in scales else wanted(name)
        if target is None:
            return
        scale, shift = correction(moments(rows), target.to(rows.device), strength)
        wide = scale[:, None] if layer.axis == 0 else scale
        layer.weight.copy_((layer.weight.float() * wide).to(stored(name)))
        if layer.bias is not None:
            layer.bias.copy_((layer.bias.float() * scale + shift).to(stored(name)))
        scales[name] = wide

    with one_thread():  # the rounding of products depends on the number of threads
        pass_through(model, layers, experts, pieces, fold)
    return scales
