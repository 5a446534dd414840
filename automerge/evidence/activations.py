"""Means and deviations of what linear layers and experts put out, on one batch of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automerge.evidence.gather import linear_layers, output_axis, removed
from automerge.evidence.pieces import Pieces, Progress
from automerge.evidence.stacked_experts import Matrices, expert_matrices, watch_experts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

TOKENS = 8192
"""The text that is used, at most: the batch goes through the model at once, for every candidate.
A deviation of as many independent numbers is known to within 1 %."""
LEAST_TOKENS = 128
"""The tokens that an expert is sent, at least: a deviation of as many is known to within 6 %."""


@dataclass(frozen=True)
class Layer:
    """What a layer's units are made of: `axis` of the weight counts them."""

    weight: Tensor
    bias: Tensor | None = None
    axis: int = 0


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
    """Compute mean and deviation of each unit, over the first `TOKENS` tokens.

    Units are the outputs of linear layers and of experts' matrices, those over the tokens that the
    expert is sent, unless these are fewer than `LEAST_TOKENS`.

    Args:
        model: a live model.
        tensors: its parameters, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called with the number of passes done and in total.

    Returns:
        (2, outputs), means and population deviations in float32 on the host, for each linear layer
        before the head and each expert's matrix, by the name of the weight.
    """
    found: dict[str, Tensor] = {}

    def note(name: str, layer: Layer, rows: Tensor) -> None:
        del layer
        found.setdefault(name, moments(rows).cpu())

    layers, experts = linear_layers(model, tensors, True), expert_matrices(model, tensors)
    pass_through(model, layers, experts, first_pieces(pieces), note)
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
    experts: Mapping[nn.Module, Matrices],
    pieces: Pieces,
    see: Callable[[str, Layer, Tensor], None],
) -> None:
    """Run one batch of sequences up to the last hidden state, and show what layers put out.

    `see` gets a layer's name, the layer, and its outputs (tokens, units), without those of padding,
    and may change the layer's weights: what comes after it is computed with these. Of `experts`, it
    gets those that are sent `LEAST_TOKENS`, with their tokens only.
    """
    import torch

    longest = max(map(len, pieces))
    ids = torch.tensor([[*piece, *[0] * (longest - len(piece))] for piece in pieces])
    real = torch.tensor([[1] * len(piece) + [0] * (longest - len(piece)) for piece in pieces])
    ids, real = ids.to(model.device), real.to(model.device)
    mask = real.bool().reshape(-1)

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            rows = output.reshape(-1, output.shape[-1])
            # Layers that see only some tokens, as experts do, see those of padding too.
            own = Layer(layer.weight, layer.bias, output_axis(layer))
            see(name, own, rows[mask] if len(rows) == len(mask) else rows)
            changed: Tensor = layer.forward(*inputs)
            return changed

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, layer in layers.items():
            stack.enter_context(removed(layer.register_forward_hook(watch(name))))
        for block, names in experts.items():
            shown = watch_experts(
                names, mask, LEAST_TOKENS, lambda n, w, rows: see(n, Layer(w), rows)
            )
            stack.enter_context(removed(block.register_forward_pre_hook(shown)))
        padded = {} if bool(mask.all()) else {"attention_mask": real}
        model.base_model(input_ids=ids, use_cache=False, **padded)
