"""The class of a live model is the one that its configuration names, and its kind follows."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers as hf

from automerge.checkpoints import open_checkpoint
from automerge.checkpoints.kinds import ModelKind, checkpoint_class, require_decoder
from automerge.errors import PreflightError

DECODER, ENCODER_DECODER, OTHER = ModelKind
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(tied=False):
    heads = {"num_key_value_heads": 2, "tie_word_embeddings": tied}
    return hf.LlamaConfig(**SMALL, intermediate_size=24, **heads)


def bert():
    return hf.BertConfig(**SMALL, intermediate_size=24)


def t5():
    return hf.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)


def bart():
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    widths = {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return hf.BartConfig(vocab_size=64, d_model=16, **layers, **widths, **heads)


@pytest.mark.parametrize(
    ("saved", "config", "live", "kind"),
    [
        (hf.LlamaForCausalLM, llama(), hf.LlamaForCausalLM, DECODER),
        (hf.LlamaModel, llama(tied=True), hf.LlamaForCausalLM, DECODER),
        (hf.LlamaModel, llama(), hf.LlamaModel, OTHER),
        (hf.LlamaForSequenceClassification, llama(), hf.LlamaForSequenceClassification, OTHER),
        (hf.BertForMaskedLM, bert(), hf.BertForMaskedLM, OTHER),
        (hf.BertModel, bert(), hf.BertModel, OTHER),
        (hf.BertForSequenceClassification, bert(), hf.BertForSequenceClassification, OTHER),
        (hf.T5ForConditionalGeneration, t5(), hf.T5ForConditionalGeneration, ENCODER_DECODER),
        (hf.T5EncoderModel, t5(), hf.T5EncoderModel, OTHER),
        (hf.T5ForSequenceClassification, t5(), hf.T5ForSequenceClassification, OTHER),
        (hf.BartModel, bart(), hf.BartForConditionalGeneration, ENCODER_DECODER),
    ],
)
def test_a_models_class_is_the_one_it_names_or_the_language_model_that_it_fills(
    tmp_path: Path, saved, config, live, kind
) -> None:
    saved(config).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint_class(checkpoint) == (live, kind)
    if kind is DECODER:
        require_decoder(checkpoint, "this")
        return
    with pytest.raises(PreflightError, match=f"this needs a causal.*, and {live.__name__} has"):
        require_decoder(checkpoint, "this")
