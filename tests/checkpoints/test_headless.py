"""A base that was saved without its output head gives no log-likelihoods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers as hf

from automerge.checkpoints import open_checkpoint
from automerge.checkpoints.kinds import headless


@pytest.mark.parametrize(
    ("kind", "tied", "lacking"),
    [
        (hf.LlamaForCausalLM, False, None),
        (hf.LlamaForCausalLM, True, None),
        (hf.LlamaModel, True, None),
        (None, True, None),
        (None, False, "lm_head.weight"),
    ],
)
def test_a_head_is_lacking_where_it_is_neither_stored_nor_tied(
    tmp_path: Path, kind: type[hf.LlamaPreTrainedModel] | None, tied: bool, lacking: str | None
) -> None:
    config = hf.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    (kind or hf.LlamaModel)(config).save_pretrained(tmp_path)
    if kind is None:  # a configuration that names no class is a language model's
        written = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**written, "architectures": None}))
    checkpoint = open_checkpoint(tmp_path)
    assert headless(checkpoint.config, checkpoint.tensors) == lacking
