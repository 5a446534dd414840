"""The tokenizer that a live model is scored with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from automerge.checkpoints.vocabularies.tokenizers import has_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(assets: Path) -> PreTrainedTokenizerBase | None:
    """Load a folder's tokenizer; None for a model without one, which does not read text."""
    import transformers

    if not has_tokenizer(assets):
        return None
    found: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
        assets, local_files_only=True, trust_remote_code=False
    )
    return found
