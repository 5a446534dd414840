"""How alike texts are to a base, by which AdapterSoup chooses adapters for a text that is new.

Chronopoulou et al. 2023 (AdapterSoup, arXiv:2302.07027, section 2.2) average the adapters whose
training texts are nearest to the new text, by the mean cosine of sentences' embeddings. They take
those of Sentence-BERT; here the base itself reads the passages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from automerge.evaluation.divergence.passages import passages
from automerge.evidence.gather import read_text
from automerge.inspection.similarity import hidden_states

PASSAGES = 100
"""Passages of each text that are read, evenly spaced; as many sentences as in AdapterSoup."""


def read_passages(path: Path) -> list[str]:
    """Return at most `PASSAGES` passages of a file or folder of text.

    Raises:
        PreflightError: it cannot be read, or contains no text.
    """
    found = passages(read_text(path).documents)
    return [found[i * len(found) // PASSAGES] for i in range(min(PASSAGES, len(found)))]


def embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Tensor:
    """Return the state of each text's last token after the middle layer, (texts, width)."""
    layers = hidden_states(model, tokenizer, texts)
    return layers[len(layers) // 2].double()


def likeness(known: Mapping[str, Tensor], new: Tensor) -> dict[str, float]:
    """Return each known text's mean cosine with a new one, over all pairs of their passages.

    What all known passages have in common, their mean, is subtracted first: hidden states share a
    large part that says nothing of the text.

    Args:
        known: embeddings of passages by text, (passages, width) each.
        new: those of the new text.
    """
    common = torch.cat(list(known.values())).mean(0)
    wanted = _mean_direction(new - common)
    return {name: float(_mean_direction(own - common) @ wanted) for name, own in known.items()}


def _mean_direction(rows: Tensor) -> Tensor:
    # The mean of ⟨x, y⟩ over pairs is the product of the means.
    lengths = rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    directions: Tensor = rows / lengths
    return directions.mean(0)
