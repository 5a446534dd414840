"""Correlations of what two models do on the same text, from a single pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automerge.evidence.gather import removed
from automerge.evidence.pieces import Pieces, Progress, counted

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

ITEM_BYTES = 4
"""Of a float32."""


def correlation_bytes(inputs: int, length: int) -> int:
    """Return the bytes that the sums of one layer take, with the inputs of a sequence."""
    return ITEM_BYTES * inputs * (inputs + 2 * length)


@dataclass
class CrossMoments:
    """Products of the deviations of two sets of columns from their means, added up by rows.

    Means are merged as by Chan et al. 1983 (doi:10.1080/00031305.1983.10483115), so that columns
    far from 0 lose no digits; in float32, means and variances in float64.
    """

    count: int
    means: tuple[Tensor, Tensor]
    squares: tuple[Tensor, Tensor]
    products: Tensor

    @classmethod
    def of(cls, ours: Tensor, theirs: Tensor) -> CrossMoments:
        """Return those of some rows, (rows, columns) each."""
        wide = ours.double(), theirs.double()
        means = wide[0].mean(0), wide[1].mean(0)
        apart = wide[0] - means[0], wide[1] - means[1]
        squares = apart[0].square().sum(0), apart[1].square().sum(0)
        return cls(len(ours), means, squares, apart[0].float().T @ apart[1].float())

    def __add__(self, other: CrossMoments) -> CrossMoments:
        total = self.count + other.count
        apart = other.means[0] - self.means[0], other.means[1] - self.means[1]
        share = self.count * other.count / total
        products = self.products + other.products
        products += (apart[0] * share).float()[:, None] * apart[1].float()
        means = [m + d * (other.count / total) for m, d in zip(self.means, apart, strict=True)]
        squares = [
            a + b + d.square() * share
            for a, b, d in zip(self.squares, other.squares, apart, strict=True)
        ]
        return CrossMoments(total, (means[0], means[1]), (squares[0], squares[1]), products)

    def correlations(self) -> Tensor:
        """Return the correlation of each column with each, float32; 0 for one that never varies."""
        import torch

        scales = [torch.where(s > 0, s.clamp_min(1e-300).rsqrt(), 0.0) for s in self.squares]
        return self.products * scales[0].float()[:, None] * scales[1].float()


def gather_correlation(
    base: PreTrainedModel,
    source: PreTrainedModel,
    layers: Mapping[str, tuple[nn.Module, nn.Module]],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Correlate the inputs of layers of two live models over the same tokens.

    Args:
        base: a live model.
        source: another, of the same architecture.
        layers: a layer of the base and one of the source, by name; each sees every token.
        pieces: sequences of token ids.
        progress: called with the number of sequences done and in total.

    Returns:
        Pearson's correlations of the base's inputs (rows) with the source's, (inputs, inputs),
        float32 on the host, by name.
    """
    import torch

    sums: dict[str, CrossMoments] = {}
    held: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            del module
            held[name] = inputs[0].flatten(0, -2)

        return hook

    def compare(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            del module
            found = CrossMoments.of(held.pop(name), inputs[0].flatten(0, -2))
            sums[name] = sums[name] + found if name in sums else found

        return hook

    with ExitStack() as stack, torch.inference_mode():
        for name, (ours, theirs) in layers.items():
            stack.enter_context(removed(ours.register_forward_pre_hook(keep(name))))
            stack.enter_context(removed(theirs.register_forward_pre_hook(compare(name))))
        for piece in counted(pieces, progress):
            for model in (base, source):
                ids = torch.tensor([piece], device=model.device)
                model.base_model(input_ids=ids, use_cache=False)
    return {name: found.correlations().cpu() for name, found in sums.items()}
