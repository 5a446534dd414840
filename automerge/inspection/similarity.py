"""How alike the hidden states of two models are, layer by layer, on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from automerge.checkpoints import is_adapter, open_checkpoint, open_together, resolve
from automerge.checkpoints.kinds import require_decoder
from automerge.errors import PreflightError
from automerge.evaluation.divergence.passages import passages
from automerge.evidence.gather import read_text
from automerge.inspection.model import Similarity
from automerge.merging import ResidentEngine
from automerge.recipe import BASE, single
from automerge.worker.worker import choose_device, compute_dtype, load_model

PROMPTS = 200
"""Passages of the text that are read, evenly spaced; as many as in REEF."""
LENGTH = 512
"""Tokens of a passage that are read."""


def similarities(
    references: Mapping[str, str],
    text: Path,
    device: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Similarity, ...]:
    """Compare sources with the base, the first, by the states of each passage's last token.

    Models are read one after the other, each as it is, so they need not fit together; an adapter
    is read in the base.

    Args:
        references: paths or hub ids by name.
        text: a file, or a folder of text files, whose passages are the prompts.
        device: "auto", "cpu" or "cuda".
        progress: called with the number of models read and in total.

    Raises:
        PreflightError: a model or the text cannot be read, or there are too few passages.
    """
    found = passages(read_text(text).documents)
    prompts = [found[i * len(found) // PROMPTS] for i in range(PROMPTS)]
    prompts = list(dict.fromkeys(prompts))
    if len(prompts) < 3:
        raise PreflightError(
            f"{text}: expected 3 passages or more to compare hidden states on, got {len(prompts)}; "
            f"name a longer text, best one of {PROMPTS} passages of about 600 characters"
        )
    base, *sources = references
    grams: dict[str, list[Tensor]] = {}
    for number, name in enumerate(references):
        model, tokenizer = loaded(references, base, name, device)
        grams[name] = [centred_gram(layer) for layer in hidden_states(model, tokenizer, prompts)]
        progress(number + 1, len(references))
    return tuple(
        Similarity(source, len(prompts), _by_layer(grams[base], grams[source]))
        for source in sources
    )


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Return the linear centred kernel alignment of two matrices of states, (prompts, width) each.

    ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) with centred columns (Kornblith et al. 2019, arXiv:1905.00414,
    section 3), from 0 to 1; no rotation and no scale of either changes it. NaN where all prompts
    have the same state.
    """
    return _alignment(centred_gram(one), centred_gram(other))


def centred_gram(states: Tensor) -> Tensor:
    """Return X Xᵀ for centred columns, (prompts, prompts), in double precision."""
    centred = states.double() - states.double().mean(dim=0)
    return centred @ centred.T


def hidden_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[Tensor]:
    """Return the states of each prompt's last token: of the embedding and after each layer,
    (prompts, width) each, on the host."""
    rows: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = tokenizer(prompt, truncation=True, max_length=LENGTH, return_tensors="pt")
            found = model(ids["input_ids"].to(model.device), output_hidden_states=True)
            rows.append(tuple(layer[0, -1].float().cpu() for layer in found.hidden_states))
    return [torch.stack(layer) for layer in zip(*rows, strict=True)]


def _by_layer(base: list[Tensor], source: list[Tensor]) -> tuple[float, ...]:
    """Return the alignment of each of the base's layers with the source's at the same depth."""
    last = len(base) - 1
    at = [round(layer * (len(source) - 1) / last) for layer in range(len(base))]
    return tuple(_alignment(own, source[row]) for own, row in zip(base[1:], at[1:], strict=True))


def _alignment(one: Tensor, other: Tensor) -> float:
    # ⟨K, L⟩_F = ‖YᵀX‖²_F for K = X Xᵀ and L = Y Yᵀ.
    return float((one * other).sum() / (one.norm() * other.norm()))


def loaded(
    references: Mapping[str, str], base: str, name: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model as it is, with its own tokenizer; an adapter in its base, with the base's.

    Args:
        references: paths or hub ids by name.
        base: the name of the base among them.
        name: of the model to load.
        device: "auto", "cpu" or "cuda".
    """
    chosen = choose_device(device)
    folder, both = resolve(references[base]).path, None
    if name != base:
        own = resolve(references[name]).path
        if is_adapter(own):
            both = {BASE: folder, name: own}
        else:
            folder = own
    require_decoder(open_checkpoint(folder), "comparing hidden states")
    model = load_model(folder, folder, compute_dtype("auto", chosen))
    model.to(chosen).eval().requires_grad_(False)
    if both is not None:
        ResidentEngine(open_together(both, BASE)).merge_into(model, single(name))
    tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return model, tokenizer
