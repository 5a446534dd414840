"""The laws of generators, as tests that anybody can run over their own generator.

from automerge.testing import GeneratorLaws

class TestMine(GeneratorLaws):
    @pytest.fixture
    def make(self):
        return MyGenerator    # a class or function of (lm, cache_bytes)

`head_size` may be raised for an engine that has no attention kernels for heads as small.
"""

from __future__ import annotations

import copy
import hashlib
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from automerge.evaluation.generation.base import GeneratorFactory
from automerge.evaluation.lm_eval.isolation import isolated

ARCHITECTURES = ("llama", "gpt2", "gemma2", "gemma3", "qwen3", "qwen3_moe")
"""Plain attention, learned positions, windows narrower than the prompts, and experts."""

WINDOW = 96
"""How many tokens a prompt and its answer may have together."""

LIMIT = 10
"""The longest answer that is asked for, in tokens."""

BATCH_SIZE = 4
"""The batch size of the generator; that of the reference is 1."""

LETTERS = "abcde"
"""The tokenizer knows every pair of these as one token, so stops begin and end inside tokens."""

SHOTS = "abcdea cdeabc. edcba bcdea. adbec cebda. "
"""What several prompts begin with."""

PROMPTS = (
    *(SHOTS + question for question in ("ab", "cde ab", "e", "dac. bad", "bbbb a cede")),
    "a",
    "cab dab",
    SHOTS * 3 + "ad",
    "<bos>bead",
    "User: dab. Answer:",
)
"""Shared and other beginnings, one token and very many, a BOS spelled out, a chat's turn."""


def pair_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of printable characters, and of pairs of `LETTERS`."""
    from tokenizers import Tokenizer, decoders, models

    pairs = [(first, second) for first in LETTERS for second in LETTERS]
    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    tokens = [*specials, *string.printable, *("".join(pair) for pair in pairs)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    return made


def tiny_model(
    architecture: str, seed: int, vocabulary: int, head_size: int = 8
) -> PreTrainedModel:
    """Return a random model of two layers in float32, with weights large enough to matter."""
    width = 4 * head_size
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": WINDOW,
        "head_dim": head_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    gpt2: dict[str, Any] = {"n_embd": width, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}
    shared = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")
    window: dict[str, Any] = {"sliding_window": 16}
    config = {
        "llama": lambda: LlamaConfig(**common),
        "gpt2": lambda: GPT2Config(**gpt2, **{name: common[name] for name in shared}),
        "gemma2": lambda: Gemma2Config(**common, **window, query_pre_attn_scalar=head_size),
        "gemma3": lambda: Gemma3TextConfig(**common, **window, query_pre_attn_scalar=head_size),
        "qwen3": lambda: Qwen3Config(**common),
        "qwen3_moe": lambda: Qwen3MoeConfig(
            **common, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
        ),
    }[architecture]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.eval().requires_grad_(False)
    model.generation_config.pad_token_id = 0
    return model


def wrapped(model: PreTrainedModel, batch_size: int, add_bos: bool = False) -> HFLM:
    """Return lm-eval's wrapper of a model."""
    with isolated():
        return HFLM(
            pretrained=model,
            tokenizer=pair_tokenizer(),
            batch_size=batch_size,
            max_length=WINDOW,
            add_bos_token=add_bos,
        )


def request(prompt: str, until: Sequence[str], limit: int = LIMIT) -> Instance:
    """Return one request for a text."""
    return Instance(
        "generate_until", {}, (prompt, {"until": list(until), "max_gen_toks": limit}), 0
    )


_KNOWN: dict[tuple[bytes, str], str] = {}


def reference(
    model: PreTrainedModel, requests: Sequence[Instance], add_bos: bool = False
) -> list[str]:
    """Return what lm-eval answers with a copy of the model, one request after another.

    It is remembered by the weights and settings, for it takes longer than what it is compared with.
    """
    digest = hashlib.sha256(f"{model.generation_config.to_dict()} {add_bos}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    weights = digest.digest()
    new = [one for one in requests if (weights, repr(one.args)) not in _KNOWN]
    if new:
        with isolated():
            lm = wrapped(copy.deepcopy(model), 1, add_bos)
            for one in new:
                text = lm.generate_until([one], disable_tqdm=True)[0]
                _KNOWN[weights, repr(one.args)] = text
    return [_KNOWN[weights, repr(one.args)] for one in requests]


def generated(
    make: GeneratorFactory,
    model: PreTrainedModel,
    requests: Sequence[Instance],
    add_bos: bool = False,
    cache_bytes: int | None = None,
) -> list[str]:
    """Return what a new generator answers."""
    with isolated():
        generator = make(wrapped(model, BATCH_SIZE, add_bos), cache_bytes)
        generator.weights_changed()
        return generator.generate(requests)


def stops(texts: Sequence[str]) -> list[list[str]]:
    """Return stops that cut given texts at their beginning, inside and at their end, or nowhere.

    A text of random tokens has pairs, so that stops of one character or two, taken at every place,
    begin and end within tokens and reach over their borders.
    """
    found: list[list[str]] = []
    for number, text in enumerate(texts):
        if len(text) < 4:
            found.append(["never"])
            continue
        middle = 1 + number % (len(text) - 2)
        found.append(
            [
                [text[middle]],
                [text[middle : middle + 2]],
                ["never", text[-2:], text[middle : middle + 3]],
                [text[0]],
                [text[-1] + "never"],
            ][number % 5]
        )
    return found


CHAT = (
    "<bos>{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def plain_model(head_size: int = 8) -> PreTrainedModel:
    """Return the model of laws that do not depend on the architecture."""
    return tiny_model("llama", 0, len(pair_tokenizer()), head_size)


@contextmanager
def memory_for(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """Let calls of the model with more rows run out of memory, as on a GPU."""

    def check(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is not None and len(tokens) > rows:
            raise torch.OutOfMemoryError("a test's device has no more memory")

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _noise(name: str) -> float:
    """Return how far a merge moves a parameter, so that texts change in every architecture.

    A tied Gemma repeats its last token unless layers outweigh embeddings. Attention scores stay
    small: on one processor, vLLM's CPU build gave NaN for a Gemma 2, which caps them, with large
    ones.
    """
    if "q_proj" in name or "k_proj" in name:
        return 0.05
    return 1.0 if "embed" in name or "wte" in name else 3.0


class GeneratorLaws:
    """Every generator keeps these; fixture `make` is a `GeneratorFactory`.

    Texts are compared with those of `HFLM` itself, with one request a batch and float32. Two tokens
    would have to be as likely, but for rounding, for a right generator to differ.
    """

    head_size: ClassVar[int] = 8

    @pytest.fixture(params=ARCHITECTURES)
    def model(self, request: pytest.FixtureRequest) -> PreTrainedModel:
        """Return a tiny random model."""
        return tiny_model(request.param, 0, len(pair_tokenizer()), self.head_size)

    @pytest.mark.parametrize("add_bos", [False, True])
    def test_texts_are_those_of_lm_eval(
        self, make: GeneratorFactory, model: PreTrainedModel, add_bos: bool
    ) -> None:
        """Shared, short, long and truncated prompts, with limits from one token on."""
        asked = [
            request(prompt, ["never"], 1 + (3 * number) % LIMIT)
            for number, prompt in enumerate(PROMPTS)
        ]
        expected = reference(model, asked, add_bos)
        assert len(set(expected)) > len(asked) // 2
        assert generated(make, model, asked, add_bos) == expected

    def test_texts_are_cut_at_stops_wherever_these_lie(
        self, make: GeneratorFactory, model: PreTrainedModel
    ) -> None:
        """One stop and several; inside tokens and over borders; at once, at the end, and half."""
        free = reference(model, [request(prompt, ["never"]) for prompt in PROMPTS])
        asked = [
            request(prompt, until)
            for shift in range(5)
            for prompt, until in zip(
                PROMPTS[shift:] + PROMPTS[:shift], stops(free[shift:] + free[:shift]), strict=True
            )
        ]
        expected = reference(model, asked)
        assert "" in expected
        assert any(expected)
        assert generated(make, model, asked) == expected

    def test_a_request_is_answered_the_same_alone_and_among_others(
        self, make: GeneratorFactory, model: PreTrainedModel
    ) -> None:
        """What else is asked, and in which order, changes nothing."""
        asked = [request(prompt, ["never", "."]) for prompt in PROMPTS]
        together = generated(make, model, asked)
        assert generated(make, model, asked[::-1]) == together[::-1]
        assert [generated(make, model, [one])[0] for one in asked] == together

    def test_texts_after_a_merge_are_a_fresh_models(
        self, make: GeneratorFactory, model: PreTrainedModel
    ) -> None:
        """Prompts share a beginning, and the weights change twice below it, in place."""
        asked = [request(prompt, ["never"]) for prompt in PROMPTS]
        with isolated():
            generator = make(wrapped(model, BATCH_SIZE), None)
            seen = []
            for seed in range(3):
                noise = torch.Generator().manual_seed(seed)
                for name, parameter in model.named_parameters():
                    shift = torch.randn(parameter.shape, generator=noise)
                    parameter.add_(shift, alpha=_noise(name) * seed)
                generator.weights_changed()
                seen.append(generator.generate(asked))
                assert seen[-1] == reference(model, asked)
        assert seen[0] != seen[1] != seen[2]

    def test_requests_are_left_as_they_are(
        self, make: GeneratorFactory, model: PreTrainedModel
    ) -> None:
        """The next candidate is asked the very same."""
        asked = [request(prompt, ["."], 3) for prompt in PROMPTS]
        before = copy.deepcopy([one.args for one in asked])
        generated(make, model, asked)
        assert [one.args for one in asked] == before

    def test_an_answer_ends_with_any_token_that_ends_one(self, make: GeneratorFactory) -> None:
        """Several end-of-text tokens; some answers are nothing else, and so are empty."""
        model = plain_model(self.head_size)
        asked = [request(prompt, ["never"]) for prompt in PROMPTS]
        tokenizer, free = pair_tokenizer(), reference(model, asked)
        firsts = [tokenizer.encode(text, add_special_tokens=False)[0] for text in free[:4]]
        middle = tokenizer.encode(free[5], add_special_tokens=False)[LIMIT // 2]
        model.generation_config.eos_token_id = [2, firsts[0], firsts[3], middle]
        expected = reference(model, asked)
        assert expected != free
        assert generated(make, model, asked) == expected

    def test_texts_after_a_chat_template_are_those_of_lm_eval(self, make: GeneratorFactory) -> None:
        """Examples as turns, and special tokens that the template spells out."""
        model = plain_model(self.head_size)
        lm = wrapped(model, 1)
        lm.tokenizer.chat_template = CHAT
        shots = [
            {"role": role, "content": text}
            for text in SHOTS.split(". ")[:2]
            for role in ("user", "assistant")
        ]
        asked = [
            request(lm.apply_chat_template([*shots, {"role": "user", "content": text}]), ["<eos>"])
            for text in PROMPTS[:6]
        ]
        expected = reference(model, asked)
        assert len(set(expected)) > len(asked) // 2
        assert generated(make, model, asked) == expected

    @pytest.mark.parametrize("cache_bytes", [1, 30_000, 100_000])
    def test_little_memory_changes_no_text(self, make: GeneratorFactory, cache_bytes: int) -> None:
        """All requests are larger than the cache, or some are, or few fit at once."""
        model = plain_model(self.head_size)
        asked = [
            request(prompt, ["never"], 1 + (3 * number) % LIMIT)
            for number, prompt in enumerate(PROMPTS)
        ]
        assert generated(make, model, asked, cache_bytes=cache_bytes) == reference(model, asked)

    def test_a_device_without_memory_is_an_error_or_changes_no_text(
        self, make: GeneratorFactory
    ) -> None:
        """Memory runs out with more than two rows; afterwards there is room again."""
        model = plain_model(self.head_size)
        asked = [request(prompt, ["never"]) for prompt in PROMPTS]
        expected = reference(model, asked)
        with isolated():
            generator = make(wrapped(model, BATCH_SIZE), None)
            with memory_for(model, 2):
                try:
                    texts = generator.generate(asked)
                except torch.OutOfMemoryError:
                    texts = expected
            assert texts == expected
            assert generator.generate(asked) == expected

    def test_what_is_not_greedy_is_answered_as_lm_eval_does(self, make: GeneratorFactory) -> None:
        """Beams, and a penalty of the model's own on repetition, among other requests."""
        model = plain_model(self.head_size)
        model.generation_config.repetition_penalty = 1.7
        asked = [request(prompt, ["never"]) for prompt in PROMPTS[:4]]
        greedy = reference(model, asked)
        for one in asked[::2]:
            one.args[1]["num_beams"] = 2
        expected = reference(model, asked)
        assert expected[::2] != greedy[::2]
        assert generated(make, model, asked) == expected
