"""Tiny models, a tokenizer and data for the tests of the evaluation."""

from __future__ import annotations

import json

WORDS = tuple(f"w{i}" for i in range(60))


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    marks = [":", "?", ".", "Q", "A", "Answer", "System", "User"]
    vocab = {word: i for i, word in enumerate([*specials, *marks, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    fast.chat_template = (
        "{% for m in messages %}{{ m['role'] | capitalize }} : {{ m['content'] }} . {% endfor %}"
        "{% if add_generation_prompt %}Answer :{% endif %}"
    )
    return fast


ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "gemma2", "qwen2", "bloom", "mamba")


def make_model(architecture="llama", seed=0, vocabulary=72):
    import torch
    from transformers import (
        AutoModelForCausalLM,
        BloomConfig,
        Gemma2Config,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        MambaConfig,
        Qwen2Config,
    )

    common = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    few_heads = {"num_key_value_heads": 2}
    config = {
        "llama": lambda: LlamaConfig(**common, **few_heads),
        "qwen2": lambda: Qwen2Config(**common, **few_heads),
        "gemma2": lambda: Gemma2Config(
            **common, **few_heads, head_dim=8, sliding_window=24, query_pre_attn_scalar=8
        ),
        "gpt_neox": lambda: GPTNeoXConfig(**common),
        "gpt2": lambda: GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=128,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.3,
        ),
        "bloom": lambda: BloomConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            n_layer=2,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.3,
        ),
        "mamba": lambda: MambaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=2,
            state_size=8,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.3,
        ),
    }[architecture]()
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    torch.random.set_rng_state(generator_state)
    model.generation_config.pad_token_id = 0
    return model


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def phrase(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))
