"""Components and depths, from names that models really have."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from automerge.checkpoints import places

SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
ROTARY = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": tf.LlamaConfig(**ROTARY),
    "qwen2": tf.Qwen2Config(**ROTARY),
    "qwen3": tf.Qwen3Config(**ROTARY),
    "mistral": tf.MistralConfig(**ROTARY),
    "gemma2": tf.Gemma2Config(**ROTARY),
    "gemma3": tf.Gemma3TextConfig(**ROTARY),
    "phi": tf.PhiConfig(**SMALL, intermediate_size=24),
    "phi3": tf.Phi3Config(**ROTARY, pad_token_id=0),
    "gpt_neox": tf.GPTNeoXConfig(**SMALL, intermediate_size=24),
    "gpt2": tf.GPT2Config(vocab_size=32, n_embd=16, n_layer=3, n_head=2),
    "olmo2": tf.Olmo2Config(**ROTARY, pad_token_id=0),
    "opt": tf.OPTConfig(**SMALL, ffn_dim=24, word_embed_proj_dim=16),
    "bloom": tf.BloomConfig(vocab_size=32, hidden_size=16, n_layer=3, n_head=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_an_architecture_has_a_component(name):
    config = CONFIGS[name]
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, 0)
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config)
    placed = places([*(n for n, _ in model.named_parameters()), "lm_head.weight"])
    layers = {p.layer for p in placed.values()}
    assert layers == {0, 1, 2, None}
    for tensor, place in placed.items():
        assert place.tensor == tensor
        assert place.component in ("attention", "mlp", "norm", "embedding"), tensor
        if place.layer is not None:
            assert place.depth == place.layer / 2
            owner = type(model.get_submodule(tensor.rpartition(".")[0])).__name__
            assert (place.component == "norm") == ("Norm" in owner), tensor
    assert {p.component for p in placed.values() if p.layer == 1} == {"attention", "mlp", "norm"}
    embedding = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    assert placed[f"{embedding}.weight"].component == "embedding"
    assert placed[f"{embedding}.weight"].depth == 0
    assert placed["lm_head.weight"].depth == 1


ENCODERS = {
    "bert": tf.BertConfig(**SMALL, intermediate_size=24),
    "roberta": tf.RobertaConfig(**SMALL, intermediate_size=24),
    "vit": tf.ViTConfig(**{**SMALL, "intermediate_size": 24}, image_size=16, patch_size=8),
    "distilbert": tf.DistilBertConfig(vocab_size=32, dim=16, n_layers=3, n_heads=2, hidden_dim=24),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_of_an_encoders_layers_has_a_component(name):
    with torch.device("meta"):
        model = tf.AutoModel.from_config(ENCODERS[name])
    placed = places([n for n, _ in model.named_parameters()])
    inner = {tensor: place for tensor, place in placed.items() if place.layer is not None}
    assert {place.component for place in inner.values()} == {"attention", "mlp", "norm"}
    for tensor, place in inner.items():
        owner = type(model.get_submodule(tensor.rpartition(".")[0])).__name__
        assert (place.component == "norm") == ("Norm" in owner), tensor


@pytest.mark.parametrize(
    ("tensor", "component", "depth"),
    [
        ("model.layers.4.self_attn.q_norm.weight", "norm", 1.0),
        ("model.layers.0.block_sparse_moe.experts.5.w1.weight", "mlp", 0.0),
        ("model.layers.2.block_sparse_moe.gate.weight", "mlp", 0.5),
        ("model.norm.weight", "norm", 1.0),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "attention", 1.0),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "mlp", 0.0),
        ("encoder.block.0.layer.0.layer_norm.weight", "norm", 0.0),
        ("decoder.block.1.layer.1.EncDecAttention.k.weight", "attention", 0.25),
        ("decoder.block.4.layer.2.DenseReluDense.wo.weight", "mlp", 1.0),
        ("encoder.final_layer_norm.weight", "norm", 1.0),
        ("shared.weight", "embedding", 0.0),
        ("wpe.weight", "embedding", 0.0),
        ("gpt_neox.embed_in.weight", "embedding", 0.0),
        ("embed_out.weight", "embedding", 1.0),
        ("transformer.word_embeddings_layernorm.weight", "norm", 0.0),
        ("score.weight", "other", 1.0),
    ],
)
def test_a_tensor_has_its_place(tensor, component, depth):
    stacks = ["model.layers.4.x.w", "encoder.block.1.x.w", "decoder.block.4.x.w"]
    place = places([*stacks, tensor])[tensor]
    assert (place.component, place.depth) == (component, depth)


def test_the_only_layer_is_the_last():
    assert places(["model.layers.0.mlp.up_proj.weight"]).popitem()[1].depth == 1.0
