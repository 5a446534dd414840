"""The laws of generators, over ours; one that keeps what old weights gave does not keep them."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from automerge.evaluation.generation.asks import Ask, Asks, obstacle
from automerge.evaluation.generation.auto import AutoGenerator
from automerge.evaluation.generation.continuous import ContinuousGenerator
from automerge.evaluation.generation.decoding import Decoder
from automerge.evaluation.generation.plan import MIN_SHARED, own, plans, shared_beginning, shares
from automerge.evaluation.generation.slots import Slots
from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.generation.table import GENERATORS
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.testing import GeneratorLaws
from automerge.testing.generators import (
    BATCH_SIZE,
    PROMPTS,
    memory_for,
    pair_tokenizer,
    plain_model,
    reference,
    request,
    tiny_model,
    wrapped,
)
from tests.evaluation.toys import make_model


class Stale(StaticGenerator):
    """Keeps what it computed with the weights before, as an engine does that is not told."""

    def __init__(self, lm, cache_bytes=None):
        super().__init__(lm, cache_bytes)
        self._kept: dict[str, str] = {}

    def generate(self, requests):
        new = [r for r in requests if str(r.args) not in self._kept]
        self._kept |= dict(zip((str(r.args) for r in new), super().generate(new), strict=True))
        return [self._kept[str(r.args)] for r in requests]


class Uncut(StaticGenerator):
    """Stops where lm-eval does, and leaves in what follows in the last token."""

    def generate(self, requests):
        more = [request.args[1]["until"][-1][:1] for request in requests]
        return [text + m for text, m in zip(super().generate(requests), more, strict=True)]


def test_continuous_does_not_hand_greedy_requests_to_lm_eval() -> None:
    with isolated():
        lm = wrapped(plain_model(), BATCH_SIZE)
        generator = ContinuousGenerator(lm)
        assert generator.chosen == "continuous"
        lm.generate_until = None
        generator.generate([request(prompt, ["."]) for prompt in PROMPTS])


@pytest.mark.sample(4)
class TestGenerators(GeneratorLaws):
    @pytest.fixture(params=["static", "continuous"])
    def make(self, request):
        return GENERATORS[request.param]


def test_a_generator_that_keeps_what_old_weights_gave_fails_the_law() -> None:
    GeneratorLaws().test_texts_are_those_of_lm_eval(Stale, plain_model(), False)
    with pytest.raises(AssertionError):
        GeneratorLaws().test_texts_after_a_merge_are_a_fresh_models(Stale, plain_model())


def test_a_prefix_that_outlives_a_merge_fails_the_law(monkeypatch) -> None:
    kept = {}
    fresh = Decoder._prefix

    def stale(decoder):
        prefix = decoder._plan.prefix
        if prefix not in kept:
            kept[prefix] = fresh(decoder)
        return kept[prefix]

    monkeypatch.setattr(Decoder, "_prefix", stale)
    GeneratorLaws().test_texts_are_those_of_lm_eval(ContinuousGenerator, plain_model(), False)
    assert any(kept)
    with pytest.raises(AssertionError):
        GeneratorLaws().test_texts_after_a_merge_are_a_fresh_models(
            ContinuousGenerator, plain_model()
        )


def test_a_generator_that_cuts_elsewhere_fails_the_law() -> None:
    with pytest.raises(AssertionError):
        GeneratorLaws().test_texts_are_cut_at_stops_wherever_these_lie(Uncut, plain_model())


def asked(limit=10):
    return [request(prompt, ["."], limit) for prompt in PROMPTS]


def tokens_run(model):
    """Count the tokens that a model runs from now on, its padding too."""
    counts = []

    def count(_, args, kwargs):
        counts.append(kwargs["input_ids"].numel())

    model.register_forward_pre_hook(count, with_kwargs=True)
    return counts


def test_a_beginning_is_run_once_and_a_request_once() -> None:
    model = plain_model()
    with isolated():
        generator = ContinuousGenerator(wrapped(model, 16))
        alike = asked()[:5]
        asks = [generator._asks.of(one) for one in alike]
        counts = tokens_run(model)
        texts = generator.generate([*alike, *alike[::-1]])
    assert texts[:5] == texts[:4:-1]
    prefix = shared_beginning([ask.prompt for ask in asks])
    assert len(prefix) > MIN_SHARED
    assert counts[0] == len(prefix)
    before_last = [len(own(ask.prompt, prefix)) - 1 for ask in asks]
    assert counts[1] == sum(map(bool, before_last)) * max(before_last)
    assert max(counts[2:]) == 5


@pytest.mark.parametrize("make", [StaticGenerator, ContinuousGenerator])
def test_rows_are_halved_where_memory_runs_out_and_stay_so(make) -> None:
    model = plain_model()
    expected = reference(model, asked())
    with isolated():
        lm = wrapped(model, 8)
        generator = make(lm)
        with memory_for(model, 2):
            assert generator.generate(asked()) == expected
        widths = []
        model.register_forward_pre_hook(
            lambda _, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        assert generator.generate(asked()) == expected
    assert max(widths) == 2
    assert lm.batch_size == 8


@pytest.mark.parametrize("make", [StaticGenerator, ContinuousGenerator, AutoGenerator])
def test_what_does_not_fit_alone_is_an_error_and_leaves_the_model_as_it_was(make) -> None:
    """It says nothing about how the model can generate: afterwards there is room again."""
    model = plain_model()
    before = model.config._attn_implementation
    with isolated():
        generator = make(wrapped(model, 8))
        with memory_for(model, 0), pytest.raises(torch.OutOfMemoryError):
            generator.generate(asked())
        assert model.config._attn_implementation == before
        assert generator.generate(asked()) == reference(model, asked())
    assert getattr(generator, "chosen", "continuous") == "continuous"


def test_another_error_is_not_tried_again() -> None:
    model, calls = plain_model(), []

    def fail(*_) -> None:
        calls.append(None)
        raise RuntimeError("something else")

    model.register_forward_pre_hook(fail)
    with isolated(), pytest.raises(RuntimeError, match="something else"):
        StaticGenerator(wrapped(model, 8)).generate(asked())
    assert len(calls) == 1


def test_answers_that_were_long_come_first_the_next_time() -> None:
    model = plain_model()
    requests = [request(prompt, [], 1 + 3 * n) for n, prompt in enumerate(PROMPTS[:4])]
    with isolated():
        generator = ContinuousGenerator(wrapped(model, 1))
        asks = [generator._asks.of(one) for one in requests]
        assert list(generator.answers(asks)) == asks[::-1]
        generator.lengths |= {ask: n for n, ask in zip((9, 7, 8, 1), asks, strict=True)}
        assert list(generator.answers(asks)) == [asks[0], asks[2], asks[1], asks[3]]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("architecture", "way"),
    [
        *((name, "continuous") for name in ("llama", "gpt2", "gpt_neox", "gemma2", "qwen2")),
        *((name, "static") for name in ("bloom", "mamba")),
    ],
)
def test_auto_is_continuous_where_its_answers_are_lm_evals(architecture, way) -> None:
    tokenizer = pair_tokenizer()
    model = make_model(architecture, vocabulary=len(tokenizer)).requires_grad_(False)
    with isolated():
        generator = AutoGenerator(wrapped(model, BATCH_SIZE))
        texts = generator.generate(asked())
    assert generator.chosen.partition(":")[0] == way, generator.chosen
    assert texts == reference(model, asked())


@pytest.mark.parametrize("damage", ["window", "prefix", "position"])
def test_auto_is_static_where_continuous_answers_are_others(damage, monkeypatch) -> None:
    model = tiny_model("gemma2" if damage == "window" else "llama", 0, len(pair_tokenizer()))
    expected = reference(model, asked())
    attend, share = Slots.attend, Slots.share
    if damage == "window":
        monkeypatch.setattr(
            Slots, "attend", lambda s, q, k, a, b, _, c: attend(s, q, k, a, b, None, c)
        )
    elif damage == "prefix":
        monkeypatch.setattr(Slots, "share", lambda s, row, shares: share(s, row, False))
    else:
        monkeypatch.setattr(Slots, "move", lambda *_: None)
    with isolated():
        generator = AutoGenerator(wrapped(model, BATCH_SIZE))
        assert generator.generate(asked()) == expected
    assert "differ from lm-eval's" in generator.chosen


def test_auto_says_which_setting_of_the_models_own_it_cannot_follow() -> None:
    model = plain_model()
    model.generation_config.no_repeat_ngram_size = 2
    with isolated():
        generator = AutoGenerator(wrapped(model, BATCH_SIZE))
        lm = wrapped(model, BATCH_SIZE)
        assert generator.generate(asked()) == StaticGenerator(lm).generate(asked())
    assert generator.chosen == "static: its generation_config.json sets no_repeat_ngram_size: 2"
    assert obstacle(plain_model().generation_config) is None


def test_the_shared_beginning_saves_most_of_all() -> None:
    draw = random.Random(0)
    for _ in range(200):
        prompts = [
            tuple(draw.choices((1, 2), k=draw.randint(0, 4)) + [3] * draw.randint(1, 14))
            for _ in range(draw.randint(1, 6))
        ]
        prompts += [(1, 1, 2, 2, 1, 2, 1, 1, 2, n) for n in range(draw.randint(0, 3))]
        beginnings = {p[:size] for p in prompts for size in range(MIN_SHARED, len(p))}
        saved = {
            one: len(one) * (sum(shares(prompt, one) for prompt in prompts) - 1)
            for one in beginnings
        }
        found = shared_beginning(prompts)
        assert saved.get(found, 0) == max([0, *saved.values()])


def test_plans_answer_everything_within_memory() -> None:
    draw = random.Random(0)
    head = tuple(range(20))
    for most_rows, most_tokens in itertools.product((1, 3, 8), (None, 1, 25, 60, 200)):
        asks = [
            Ask((head if n % 2 else ()) + (n,) * draw.randint(1, 30), (), draw.randint(1, 9))
            for n in range(7)
        ]
        found = plans(asks, most_rows, most_tokens)
        assert sorted(n for _, numbers in found for n in numbers) == list(range(7))
        for plan, numbers in found:
            needs = [len(own(asks[n].prompt, plan.prefix)) + asks[n].limit - 1 for n in numbers]
            assert plan.length == max(needs)
            assert 1 <= plan.rows <= most_rows
            if most_tokens is not None and len(numbers) > 1:
                assert len(plan.prefix) + plan.rows * plan.length <= most_tokens


def test_an_answer_ends_as_soon_as_lm_eval_would_cut_it() -> None:
    with isolated():
        asks = Asks(wrapped(plain_model(), 1))
        tokenizer = pair_tokenizer()
        ask = asks.of(request("a", ["b c", "dd", "", "eae"]))
        assert ask is not None
        assert asks.stops(ask).end([9])  # an empty stop is in every text
        for text in ("aab c", "a add", "abeae", "abcddabc"):
            ask = asks.of(request("a", ["b c", "dd", "eae"]))
            stops, tokens = asks.stops(ask), tokenizer.encode(text, add_special_tokens=False)
            ends = [n for n in range(1, 1 + len(tokens)) if stops.end(tokens[:n])]
            cut = min(text.find(stop) for stop in ("b c", "dd", "eae") if stop in text)
            assert asks.text(ask, tokens[: ends[0]]) == asks.text(ask, tokens) == text[:cut]
            assert not tokenizer.decode(tokens[: ends[0] - 1]).startswith(text[: cut + 3])
