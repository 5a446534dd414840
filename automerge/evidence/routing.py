"""How a mixture of experts routes text: what its experts are grouped by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from automerge.evidence.gather import removed
from automerge.evidence.pieces import Pieces, Progress, counted

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_ROUTERS = ("gate", "router")
"""What a block of experts may call its router in a live model."""


class Routing(NamedTuple):
    """How one layer's router and experts answer a text.

    `shares` has each expert's share of the router's choices, (experts,); `outputs` what each puts
    out on average, whether chosen or not, (experts, width); `products` the mean over tokens of the
    products of router logits, (experts, experts).
    """

    shares: Tensor
    outputs: Tensor
    products: Tensor

    def packed(self) -> Tensor:
        """Return it as evidence has it: (experts, 1 + width + experts), float32, on the host."""
        import torch

        whole = torch.cat([self.shares[:, None], self.outputs, self.products], dim=1)
        return whole.float().cpu()

    @classmethod
    def unpacked(cls, packed: Tensor) -> Routing:
        """Invert `packed`."""
        n_experts = len(packed)
        return cls(packed[:, 0], packed[:, 1:-n_experts], packed[:, -n_experts:])


def gather_routing(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Watch which experts tokens are sent to, and run every expert on every token.

    Args:
        model: a live model.
        tensors: its parameters, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called with the number of sequences done and in total.

    Returns:
        `Routing.packed` of each layer with experts, by the name of its router's weight.
    """
    import torch

    blocks = _blocks(model, tensors)
    if not blocks:
        return {}
    sums: dict[str, Routing] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(block: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            del output
            found = _routing(block, inputs[0].reshape(-1, inputs[0].shape[-1]))
            before = sums.get(name)
            sums[name] = found if before is None else Routing(*map(torch.add, before, found))

        return hook

    with ExitStack() as stack:
        for name, block in blocks.items():
            stack.enter_context(removed(block.register_forward_hook(watch(name))))
        with torch.inference_mode():
            for piece in counted(pieces, progress):
                model(input_ids=torch.tensor([piece], device=model.device), use_cache=False)
    n_tokens = sum(map(len, pieces))
    return {
        name: Routing(
            found.shares / found.shares.sum(), found.outputs / n_tokens, found.products / n_tokens
        ).packed()
        for name, found in sums.items()
    }


def _blocks(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Return blocks of experts by the name of their router's weight in the checkpoint."""
    owners = {
        id(weight): block
        for block in model.modules()
        for name in _ROUTERS
        if hasattr(block, "experts")
        and (weight := getattr(getattr(block, name, None), "weight", None)) is not None
    }
    return {name: owners[id(tensor)] for name, tensor in tensors.items() if id(tensor) in owners}


def _routing(block: Any, states: Tensor) -> Routing:
    """Return the sums of what `Routing` has over tokens: `states` is (tokens, width)."""
    import torch

    router = next(getattr(block, name) for name in _ROUTERS if hasattr(block, name))
    logits, _, chosen = router(states)
    n_experts = logits.shape[-1]
    counts = torch.bincount(chosen.flatten(), minlength=n_experts).double()
    every = torch.ones(len(states), 1, dtype=states.dtype, device=states.device)
    outputs = [
        block.experts(states, torch.full_like(every, number, dtype=torch.long), every)
        for number in range(n_experts)
    ]
    wide = logits.double()
    return Routing(counts, torch.stack([own.double().sum(0) for own in outputs]), wide.T @ wide)
