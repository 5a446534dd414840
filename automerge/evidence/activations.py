"""Means and deviations of what linear layers put out, on one batch of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from automerge.evidence.gather import linear_layers, removed
from automerge.evidence.pieces import Pieces, Progress

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

TOKENS = 8192
"""The text that is used, at most: the batch goes through the model at once, for every candidate.
A deviation of as many independent numbers is known to within 1 %."""


def first_pieces(pieces: Pieces, tokens: int = TOKENS) -> list[list[int]]:
    """Return the first sequences of token ids, `tokens` in total."""
    found: list[list[int]] = []
    for piece in pieces:
        if tokens <= 0:
            break
        found.append(list(piece[:tokens]))
        tokens -= len(found[-1])
    return found


def gather_activations(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Compute mean and deviation of each unit of each linear layer, over the first `TOKENS` tokens.

    Args:
        model: a live model.
        tensors: its parameters, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called with the number of passes done and in total.

    Returns:
        (2, outputs), means and population deviations in float32 on the host, for each linear layer
        before the head, by the name of the layer's weight.
    """
    found: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module, rows: Tensor) -> None:
        found.setdefault(name, moments(rows).cpu())

    pass_through(model, linear_layers(model, tensors, True), first_pieces(pieces), note)
    if progress is not None:
        progress(1, 1)
    return found


def moments(rows: Tensor) -> Tensor:
    """Return mean and population deviation of each column, (2, columns), in float32."""
    import torch

    deviation, mean = torch.std_mean(rows.float(), dim=0, correction=0)
    return torch.stack([mean, deviation])


def pass_through(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Module],
    pieces: Pieces,
    see: Callable[[str, nn.Module, Tensor], None],
) -> None:
    """Run one batch of sequences up to the last hidden state, and show what layers put out.

    `see` gets a layer's name, the layer, and its outputs (tokens, units), without those of padding,
    and may change the layer's weights: what comes after it is computed with these.
    """
    import torch

    longest = max(map(len, pieces))
    ids = torch.tensor([[*piece, *[0] * (longest - len(piece))] for piece in pieces])
    real = torch.tensor([[1] * len(piece) + [0] * (longest - len(piece)) for piece in pieces])
    ids, real = ids.to(model.device), real.to(model.device)
    mask = real.bool().reshape(-1)

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            rows = output.reshape(-1, output.shape[-1])
            # Layers that see only some tokens, as experts do, see those of padding too.
            see(name, layer, rows[mask] if len(rows) == len(mask) else rows)
            changed: Tensor = layer.forward(*inputs)
            return changed

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, layer in layers.items():
            stack.enter_context(removed(layer.register_forward_hook(watch(name))))
        padded = {} if bool(mask.all()) else {"attention_mask": real}
        model.base_model(input_ids=ids, use_cache=False, **padded)
