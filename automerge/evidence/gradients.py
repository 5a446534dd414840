"""Gradients of a live model on text, one parameter's at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from automerge.checkpoints.naming import same_part
from automerge.evidence.pieces import Pieces, Progress, counted

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SEED = 0
"""Labels of the n-th sequence are drawn with a generator seeded by this plus n."""


def gather_squared_gradient(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Average squared gradients of log p(label | tokens before), labels drawn from the model.

    This is the diagonal of the Fisher information (Matena & Raffel 2022, arXiv:2111.09832, sec.
    3.2). A sequence is run backwards once, for the sum of log p over its positions: gradients of
    different positions have mean 0 and are uncorrelated, since each label is drawn given what is
    before it, so the expected square of their sum is the sum of their expected squares.

    Args:
        model: a live model.
        tensors: the parameters wanted, or parts of them, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called after every sequence.

    Returns:
        Per tensor the mean over all tokens, in float32 on the host, in (nats per unit)².
    """
    sums: dict[str, Tensor] = {}

    def square(name: str, gradient: Tensor) -> None:
        squared = gradient.float().square()
        sums[name] = sums[name] + squared if name in sums else squared

    with watched(model, tensors, square):
        for number, piece in enumerate(counted(pieces, progress), start=1):
            backward_from_drawn_labels(model, piece, SEED + number)
    n_tokens = sum(map(len, pieces))
    return {name: (total / n_tokens).cpu() for name, total in sums.items()}


def gather_gradient(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Average gradients of −log p(next token); arguments as for `gather_squared_gradient`.

    Returns:
        Per tensor the mean over all tokens that have one before them, in float32 on the host, in
        nats per unit.
    """
    import torch

    sums: dict[str, Tensor] = {}
    n_tokens = 0

    def add(name: str, gradient: Tensor) -> None:
        sums[name] = sums[name] + gradient.float() if name in sums else gradient.float().clone()

    with watched(model, tensors, add):
        for piece in counted(pieces, progress):
            if len(piece) > 1:
                logs = _log_probabilities(model, piece)[:-1]
                targets = torch.tensor(piece[1:], device=logs.device)[:, None]
                (-logs.gather(1, targets).sum()).backward()  # type: ignore[no-untyped-call]
                n_tokens += len(piece) - 1
    return {name: (total / n_tokens).cpu() for name, total in sums.items()}


def _log_probabilities(model: PreTrainedModel, piece: Sequence[int]) -> Tensor:
    """Return log p of every token after each position of one sequence, (positions, vocabulary)."""
    import torch

    given = torch.tensor([piece], device=model.device)
    logits: Tensor = model(input_ids=given, use_cache=False).logits[0]
    return logits.float().log_softmax(dim=-1)


def backward_from_drawn_labels(model: PreTrainedModel, piece: Sequence[int], seed: int) -> None:
    """Run a sequence backwards from Σ log p(label | tokens before), labels drawn from the model."""
    import torch

    logs = _log_probabilities(model, piece)
    generator = torch.Generator(logs.device).manual_seed(seed)
    labels = torch.multinomial(logs.detach().exp(), 1, generator=generator)
    logs.gather(1, labels).sum().backward()  # type: ignore[no-untyped-call]


@contextmanager
def watched(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], take: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """While entered, gradients are taken as they come, tensor by tensor, and then dropped."""
    import torch

    owners = {p.untyped_storage().data_ptr(): p for p in model.parameters()}
    parts: dict[nn.Parameter, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        owner = owners.get(tensor.untyped_storage().data_ptr())
        if owner is not None and owner.is_floating_point():
            parts.setdefault(owner, []).append((name, tensor.detach()))

    def hook(parameter: Tensor) -> None:
        assert isinstance(parameter, torch.nn.Parameter)
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        for name, tensor in parts[parameter]:
            take(name, same_part(gradient, parameter, tensor))

    handles = []
    try:
        for parameter in parts:
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parts:
            parameter.requires_grad_(False)
            parameter.grad = None
