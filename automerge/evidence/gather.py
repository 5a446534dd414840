"""Evidence from a live model and text: one forward pass per sequence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.errors import PreflightError
from automerge.evidence.pieces import Pieces, Progress, counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENDINGS = (".txt", ".md")
_GATED = re.compile(r"\.(\d+)\.mlp\.gate_proj\.weight$")
MAX_BYTES = 1 << 30
"""The maximum total size of the text."""


@dataclass(frozen=True)
class Text:
    """Text to gather evidence on: some documents, and a digest of them."""

    documents: tuple[str, ...]

    @property
    def digest(self) -> str:
        joined = "\0".join(self.documents)
        return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def read_text(path: Path) -> Text:
    """Read a file, or all text and Markdown files of a folder, as UTF-8.

    Raises:
        PreflightError: there is no text, too much of it, or it cannot be read.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
    else:
        files = [path]
    try:
        if not files or sum(file.stat().st_size for file in files) > MAX_BYTES:
            wanted = f"text files ({', '.join(ENDINGS)}) of at most 1 GiB in total"
            raise PreflightError(f"{path}: expected {wanted}, got {len(files)} file(s)")
        documents = tuple(file.read_text(encoding="utf-8") for file in files)
    except (OSError, UnicodeDecodeError) as error:
        raise PreflightError(f"{path}: cannot be read as text: {error}") from error
    if not any(document.strip() for document in documents):
        raise PreflightError(f"{path} contains no text")
    return Text(documents)


def sequences(
    text: Text, tokenizer: PreTrainedTokenizerBase, length: int, tokens: int
) -> Iterator[list[int]]:
    """Yield sequences of at most `length` token ids, document by document; `tokens` in total."""
    left = tokens
    for document in text.documents:
        ids: list[int] = tokenizer(document, verbose=False)["input_ids"]
        for start in range(0, len(ids), length):
            piece = ids[start : start + length][:left]
            if piece:
                yield piece
            left -= len(piece)
            if left <= 0:
                return


def gather_input_gram(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Average x xᵀ over the inputs x of each linear layer (Jin et al. 2023, arXiv:2212.09849).

    Args:
        model: a live model.
        tensors: its parameters, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called with the number of sequences done and in total.

    Returns:
        A matrix (inputs, inputs) in float32 on the host for each linear layer, by the name of the
        layer's weight (outputs, inputs). A head that is tied to the embedding, and experts that
        share one tensor, are left out.
    """
    import torch

    linear = linear_layers(model, tensors)
    if not linear:
        return {}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(linear, 0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            del module
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            product = rows.T @ rows
            sums[name] = sums[name] + product if name in sums else product
            counts[name] += len(rows)

        return hook

    with ExitStack() as stack:
        for name, module in linear.items():
            stack.enter_context(removed(module.register_forward_pre_hook(watch(name))))
        with torch.inference_mode():
            for piece in counted(pieces, progress):
                model(input_ids=torch.tensor([piece], device=model.device), use_cache=False)
    return {name: (total / counts[name]).cpu() for name, total in sums.items()}


def gather_hidden_state(
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
    pieces: Pieces,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Average what enters each layer over tokens: what experts' gates are made of.

    Args:
        model: a live model.
        tensors: its parameters, by their name in the checkpoint.
        pieces: sequences of token ids.
        progress: called with the number of sequences done and in total.

    Returns:
        A vector (width,) in float32 on the host for each layer that has a gated feed-forward part,
        by the name of its `mlp.gate_proj.weight`.
    """
    import torch

    layers = {name: int(match[1]) for name in tensors if (match := _GATED.search(name))}
    if not layers:
        return {}
    total: Tensor | None = None
    count = 0
    with torch.inference_mode():
        for piece in counted(pieces, progress):
            ids = torch.tensor([piece], device=model.device)
            found = model(input_ids=ids, use_cache=False, output_hidden_states=True)
            # (layers, width): the last state enters no layer.
            states = torch.stack([state[0].double().sum(0) for state in found.hidden_states[:-1]])
            total = states if total is None else total + states
            count += len(piece)
    if total is None:
        return {}
    means = (total / count).float().cpu()
    return {name: means[layer].clone() for name, layer in layers.items()}


def linear_layers(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], transposed: bool = False
) -> dict[str, torch.nn.Module]:
    """Return linear layers by the name of their weight in the checkpoint.

    `transposed` says whether those count whose weight is (inputs, outputs), as GPT-2's.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D) if transposed else (nn.Linear,)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers = {id(m.weight): m for m in model.modules() if isinstance(m, kinds)}
    return {
        name: layers[id(tensor)]
        for name, tensor in tensors.items()
        if id(tensor) in layers and id(tensor) not in embeddings
    }


def output_axis(layer: nn.Module) -> int:
    """Return the axis of a linear layer's weight that counts its outputs."""
    from transformers.pytorch_utils import Conv1D

    return 1 if isinstance(layer, Conv1D) else 0


@contextmanager
def removed(handle: Any) -> Iterator[None]:
    """Remove a hook when done."""
    try:
        yield
    finally:
        handle.remove()
