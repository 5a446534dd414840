"""Tiny models, a tokenizer and data for the tests of the evaluation."""

from __future__ import annotations

import json
import random

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


ENCODER_DECODERS = ("t5", "bart")


def make_encoder_decoder(architecture="t5", seed=0, **settings):
    """Relative positions and a tied head, or learned positions that padding must not move."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

    tokens = {"vocab_size": 72, "eos_token_id": 2, "pad_token_id": 0, **settings}
    config = {
        "t5": lambda: T5Config(
            **tokens,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        ),
        "bart": lambda: BartConfig(
            **tokens,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=512,
            bos_token_id=1,
            decoder_start_token_id=2,
            init_std=0.3,
        ),
    }[architecture]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config)
        if architecture == "t5":  # whose answers would be one token each without
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def phrase(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def write_tasks(folder, items, generated, texts):
    """Tasks of every kind the scorer knows, with data files named relative to the YAML.

    Those called `five_...` show the same five examples before each item, or nearly: lm-eval leaves
    out an item that is one of them.
    """
    (folder / "data").mkdir()
    rng = random.Random(5)
    choices = [
        {
            "question": phrase(rng, 3, 12),
            "choices": [phrase(rng, 1, 5) for _ in range(4)],
            "answer": rng.randrange(4),
        }
        for _ in range(items)
    ]
    write_jsonl(folder / "data" / "choice.jsonl", choices)
    single = [{**row, "choices": list(WORDS[:4])} for row in choices]
    write_jsonl(folder / "data" / "single.jsonl", single)
    write_jsonl(
        folder / "data" / "generate.jsonl",
        [{"question": phrase(rng, 2, 10), "answer": rng.choice(WORDS)} for _ in range(generated)],
    )
    write_jsonl(
        folder / "data" / "text.jsonl",
        [{"text": phrase(rng, 20, 300)} for _ in range(texts)],
    )
    write_jsonl(
        folder / "data" / "word.jsonl",
        [{"context": phrase(rng, 3, 9), "word": phrase(rng, 1, 2)} for _ in range(items)],
    )

    def dataset(name):
        return (
            f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: data/{name}.jsonl\n"
            "test_split: test\n"
        )

    choice = (
        "output_type: multiple_choice\ndoc_to_text: 'Q : {{question}} A :'\n"
        "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    )
    (folder / "choice.yaml").write_text(f"task: choice\n{dataset('choice')}{choice}")
    (folder / "single.yaml").write_text(f"task: single\n{dataset('single')}{choice}")
    (folder / "shots.yaml").write_text("include: choice.yaml\ntask: shots\nnum_fewshot: 2\n")
    fixed = "num_fewshot: 5\nfewshot_split: test\nfewshot_config: {sampler: first_n}\n"
    for name in ("choice", "single", "word", "generate"):
        (folder / f"five_{name}.yaml").write_text(
            f"include: {name}.yaml\ntask: five_{name}\n{fixed}"
        )
    (folder / "both.yaml").write_text(
        "group: both\ntask: [choice, single]\naggregate_metric_list:\n"
        "  - {metric: acc, aggregation: mean, weight_by_size: true}\n"
    )
    (folder / "generate.yaml").write_text(
        f"task: generate\n{dataset('generate')}output_type: generate_until\n"
        "doc_to_text: 'Q : {{question}} A :'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: ['.', w7], max_gen_toks: 8}\nmetric_list:\n"
        "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
        "filter_list:\n"
        "  - {name: first, filter: [{function: take_first}]}\n"
        "  - {name: word, filter: [{function: regex, regex_pattern: '(w[0-9]+)'}, "
        "{function: take_first}]}\n"
    )
    (folder / "rolling.yaml").write_text(
        f"task: rolling\n{dataset('text')}output_type: loglikelihood_rolling\n"
        "doc_to_text: ''\ndoc_to_target: text\nmetric_list:\n"
        "  - metric: word_perplexity\n  - metric: bits_per_byte\n"
    )
    (folder / "word.yaml").write_text(
        f"task: word\n{dataset('word')}output_type: loglikelihood\n"
        "doc_to_text: context\ndoc_to_target: ' {{word}}'\nmetric_list:\n"
        "  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    return folder


def refusals(specs, settings):
    """All that is wrong with tasks; nothing where they can be loaded."""
    from automerge.evaluation.base import TasksRefused
    from automerge.evaluation.lm_eval.tasks import load_tasks

    try:
        load_tasks(specs, settings)
    except TasksRefused as refused:
        return list(refused.task_faults)
    return []
