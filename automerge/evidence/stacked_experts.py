"""Experts that transformers keeps in a few tensors: their matrices by name, and what they put out.

A hook on linear layers does not see them, so they are computed here, expert by expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Matrices = Mapping[tuple[int, int], str]
"""The names of a block's matrices, by the number of the expert and that of the matrix: 0 and 1 read
a token, the first of them before the activation function, and 2 puts out."""


def expert_matrices(
    model: PreTrainedModel, tensors: Mapping[str, Tensor]
) -> dict[nn.Module, Matrices]:
    """Return blocks of experts in one parameter, with the names of their matrices.

    Args:
        model: a live model.
        tensors: its parameters or parts of them, by their name in the checkpoint.
    """
    places: dict[int, tuple[nn.Module, tuple[int, int], Tensor]] = {}
    for block in model.modules():
        if not all(hasattr(block, name) for name in ("gate_up_proj", "down_proj", "act_fn")):
            continue
        for number in range(len(block.down_proj)):
            for which, part in enumerate(_parts(block, number)):
                places[part.data_ptr()] = block, (number, which), part
    found: dict[nn.Module, dict[tuple[int, int], str]] = {}
    for name, tensor in tensors.items():
        place = places.get(tensor.data_ptr())
        if place is not None and tensor.shape == place[2].shape:
            found.setdefault(place[0], {})[place[1]] = name
    return {**found}


def watch_experts(
    names: Matrices, real: Tensor, least: int, see: Callable[[str, Tensor, Tensor], None]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Return a hook before a block of experts that shows what its matrices put out.

    Args:
        names: of the block's matrices.
        real: which of all tokens are no padding, (tokens,).
        least: experts that are sent fewer tokens than this are not shown.
        see: gets a name, the matrix, and its outputs on the tokens that its expert is sent,
            (tokens, outputs), and may change the matrix: what comes after is computed with it.
    """
    import torch

    def hook(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        states, chosen = inputs[0].reshape(-1, inputs[0].shape[-1]), inputs[1]
        counts = (
            real if len(real) == len(states) else torch.ones_like(chosen[:, 0], dtype=torch.bool)
        )

        for number in sorted({number for number, _ in names}):
            tokens = states[(chosen == number).any(dim=1) & counts]
            if len(tokens) < least:
                continue
            parts = _parts(block, number)

            def shown(which: int, rows: Tensor, number: int = number, parts: Any = parts) -> Tensor:
                name, matrix = names.get((number, which)), parts[which]
                if name is not None:
                    see(name, matrix, torch.nn.functional.linear(rows, matrix))
                return torch.nn.functional.linear(rows, matrix)

            shown(2, block.act_fn(shown(0, tokens)) * shown(1, tokens))  # type: ignore[operator]

    return hook


def _parts(block: nn.Module, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of an expert, in the order of `Matrices`."""
    gate, up = block.gate_up_proj[number].chunk(2)  # type: ignore[index]
    return gate, up, block.down_proj[number]  # type: ignore[index]
