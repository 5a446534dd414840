"""The cost of a candidate's generated answers, against lm-eval's own way and the fewest steps."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from automerge.bench.merge import seconds, timed, varied
from automerge.bench.score import METHOD, live_models
from automerge.bench.score_tasks import one_token_words
from automerge.bench.times import Times
from automerge.evaluation.generation.continuous import ContinuousGenerator
from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.loglikelihood.packing import Request, unique_tokens
from automerge.methods import METHODS

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel

SHOT, QUESTION = 130, (40, 160)
"""Tokens of an example before the questions, and of a question, about as in gsm8k."""

UNTIL = ["Question:", "</answer>"]


@dataclass(frozen=True)
class Exam:
    """What is asked: items behind the same examples, and how long answers are.

    An answer ends with each token with a probability of 1 / `mean`, and at `longest` tokens.
    """

    items: int
    shots: int
    mean: int
    longest: int

    def requests(self) -> list[Instance]:
        """Return one request per item, of words that are one token each."""
        from lm_eval.api.instance import Instance

        draw, words = random.Random(0), one_token_words()
        before = "".join(" " + word for word in draw.choices(words, k=self.shots * SHOT))
        return [
            Instance(
                "generate_until",
                {},
                (
                    before + " " + " ".join(draw.choices(words, k=draw.randint(*QUESTION))),
                    {"until": UNTIL, "max_gen_toks": self.longest},
                ),
                number,
            )
            for number in range(self.items)
        ]


@dataclass(frozen=True)
class ExamWork:
    """The work that is timed: tokens of all prompts, unique ones, and those of the answers."""

    items: int
    prompt_tokens: int
    unique_tokens: int
    answer_tokens: int
    longest_answer: int
    rows: int
    parameters: int
    dtype: str
    threads: int


@dataclass(frozen=True)
class ExamTime(Times):
    """Times of one candidate's answers, in seconds, and those that processors spent on lm-eval's
    way and ours; `differing` counts answers that are not `static`'s."""

    SHOWN = ("to_static", "to_floor", "cpu_to_static")
    COUNTS = ("differing",)

    static: float
    ours: float
    floor: float
    static_cpu: float
    ours_cpu: float
    differing: int

    @property
    def to_static(self) -> float:
        """Our time relative to lm-eval's."""
        return self.ours / self.static

    @property
    def to_floor(self) -> float:
        """Our time relative to the floor."""
        return self.ours / self.floor

    @property
    def cpu_to_static(self) -> float:
        """Our time relative to lm-eval's, in processors' time."""
        return self.ours_cpu / self.static_cpu


def bench_generate(
    shape: str | None, exam: Exam, batch_size: int, repeats: int, device: str = "cpu"
) -> Iterator[ExamWork | ExamTime]:
    """Time candidates' answers, with a different recipe in every repeat.

    A warm-up candidate shows how long answers are; in each repeat they differ.

    Args:
        shape: a name in `shapes.SIZES`; None for the demo's models.
        exam: what is asked.
        batch_size: as in the configuration.
        repeats: the number of candidates.
        device: where the model lives.

    Yields:
        The work, then the times of each repeat.
    """
    from lm_eval.models.huggingface import HFLM

    engine, model, tokenizer = live_models(shape, device)
    longest = exam.shots * SHOT + QUESTION[1] + exam.longest + 1
    recipes = [varied(METHODS[METHOD], 3, turn) for turn in range(repeats + 1)]
    requests = exam.requests()
    with (
        isolated(),
        _quietly(),
        ends_by_chance(model, tokenizer.eos_token_id, len(tokenizer), exam.mean),
    ):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=longest)
        static, ours = StaticGenerator(lm), ContinuousGenerator(lm)
        engine.merge_into(model, recipes[0])
        ours.generate(requests)
        prompts = [lm.tok_encode(request.args[0]) for request in requests]
        lengths = list(ours.lengths.values())
        floor = Steps.of(prompts, lengths, ours.rows)
        floor.run(model)
        yield ExamWork(
            items=len(requests),
            prompt_tokens=sum(map(len, prompts)),
            unique_tokens=floor.prompt_tokens,
            answer_tokens=sum(lengths),
            longest_answer=max(lengths),
            rows=ours.rows,
            parameters=model.num_parameters(),
            dtype=str(model.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
        )
        for recipe in recipes[1:]:
            engine.merge_into(model, recipe)
            texts, ours_s, ours_cpu = timed(ours.generate, requests)
            expected, static_s, static_cpu = timed(static.generate, requests)
            lengths = list(ours.lengths.values())
            fewest = replace(floor, answer_tokens=sum(lengths), rows=ours.rows)
            yield ExamTime(
                static=static_s,
                ours=ours_s,
                floor=seconds(fewest.run, model),
                static_cpu=static_cpu,
                ours_cpu=ours_cpu,
                differing=sum(a != b for a, b in zip(texts, expected, strict=True)),
            )


@dataclass(frozen=True)
class Steps:
    """The fewest tokens: those of prompts once each, and of answers in full batches.

    Prompts run in rows of `width`; answers a token at a time, without keys and values to read.
    """

    prompt_tokens: int
    answer_tokens: int
    width: int
    rows: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], lengths: Sequence[int], rows: int) -> Steps:
        """Count what prompts and answers of these lengths need, with `rows` answers at once."""
        unique = unique_tokens([Request(tuple(prompt), ()) for prompt in prompts])
        return cls(unique, sum(lengths), round(statistics.mean(map(len, prompts))), rows)

    @torch.no_grad()
    def run(self, model: PreTrainedModel) -> None:
        """Run that many tokens."""
        left = self.prompt_tokens
        while left > 0:
            width = min(self.width, left)
            self._call(model, 1, width)
            left -= width
        left = self.answer_tokens
        while left > 0:
            rows = min(self.rows, left)
            self._call(model, rows, 1)
            left -= rows

    def _call(self, model: PreTrainedModel, rows: int, width: int) -> None:
        inputs = torch.zeros((rows, width), dtype=torch.long, device=model.device)
        model(inputs, use_cache=False, logits_to_keep=1)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence transformers' warnings about length, which do not matter for random weights."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def ends_by_chance(model: PreTrainedModel, end: int, known: int, mean: int) -> Iterator[None]:
    """Let answers of random weights end, which no model does by itself, after unlike lengths.

    Whether an answer ends is a hash of its last token and position, the same however it is run.

    Args:
        model: whose logits are changed.
        end: the token that ends answers.
        known: how many tokens the tokenizer has; others are not chosen.
        mean: the mean length of an answer, in tokens.
    """

    def change(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        tokens, positions = kwargs.get("input_ids"), kwargs.get("position_ids")
        if tokens is not None and positions is not None:
            out.logits[..., known:] = -torch.inf
            out.logits[..., end] = -torch.inf
            ending = _hash(tokens[:, -1], positions[:, -1]) % mean == 0
            out.logits[ending, -1, end] = torch.inf
        return out

    config = model.generation_config
    before = config.eos_token_id, config.pad_token_id
    config.eos_token_id, config.pad_token_id = end, end
    handle = model.register_forward_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        config.eos_token_id, config.pad_token_id = before


def _hash(tokens: Tensor, positions: Tensor) -> Tensor:
    """Return numbers of 31 bits that nearby tokens and positions do not have in common."""
    mixed = tokens * 1_000_003 + positions * 7_368_787
    for shift, factor in ((13, 1_274_126_177), (16, 1_812_433_253)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0x7FFFFFFF
    return mixed ^ (mixed >> 15)
