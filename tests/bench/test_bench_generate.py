"""The benchmark of generated answers runs, and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from automerge.bench.generate import SHOT, Exam, ExamTime, Steps, ends_by_chance
from automerge.cli import app
from automerge.errors import ConfigError
from tests.evaluation.toys import make_model


@pytest.fixture(autouse=True)
def _threads_of_their_own():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_floor_runs_each_token_once_and_answers_in_full_batches():
    prompts = [[1, 2, 3, n, n] for n in range(9)]
    steps = Steps.of(prompts, [1, 2, 8], rows=4)
    assert (steps.prompt_tokens, steps.answer_tokens) == (3 + 9 * 2, 11)
    model, seen = make_model(), []
    model.model.embed_tokens.register_forward_hook(lambda *a: seen.append(tuple(a[1][0].shape)))
    steps.run(model)
    assert seen == [(1, 5)] * 4 + [(1, 1), (4, 1), (4, 1), (3, 1)]


def test_answers_end_by_chance_at_lengths_that_depend_on_tokens_and_positions_only():
    model = make_model("llama")
    prompts = torch.randint(10, 60, (40, 12), generator=torch.Generator().manual_seed(0))
    before = model.generation_config.eos_token_id
    with ends_by_chance(model, end=2, known=50, mean=5):
        settings = {"do_sample": False, "max_new_tokens": 60, "pad_token_id": 2}
        answers = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
        alone = [
            model.generate(row[None], attention_mask=torch.ones_like(row[None]), **settings)[0]
            for row in prompts[:3]
        ]
    lengths = [int((row[12:] == 2).nonzero()[0]) + 1 for row in answers]
    assert answers[:, 12:].max() < 50
    # A geometric length has a mean of 5 and a deviation of 4.5; of 40 draws, five errors are 3.5.
    assert abs(sum(lengths) / 40 - 5) < 3.5
    assert len(set(lengths)) > 5
    for row, own, length in zip(answers, alone, lengths, strict=False):
        assert row[: 12 + length].tolist() == own.tolist()
    assert model.generation_config.eos_token_id == before


def test_medians_are_taken_of_each_time_but_differing_answers_add_no_doubt():
    median = ExamTime.median(
        [ExamTime(s, s / 3, 1, s, s / 4, d) for s, d in ((9, 0), (3, 4), (6, 0))]
    )
    assert (median.to_static, median.to_floor, median.differing) == (1 / 3, 2, 4)
    assert median.cpu_to_static == 1 / 4


def test_items_share_their_examples_and_nothing_else():
    prompts = [request.args[0].split() for request in Exam(5, 2, 9, 9).requests()]
    assert len({tuple(prompt[:260]) for prompt in prompts}) == 1
    assert len({tuple(prompt[260:]) for prompt in prompts}) == 5


def test_command_prints_json_and_every_answer_is_lm_evals():
    arguments = ["--items", "5", "--fewshot", "1", "--longest", "8", "--mean", "4", "--repeats"]
    printed = CliRunner().invoke(app, ["bench", "generate", *arguments, "1", "--json"])
    found = json.loads(printed.stdout)
    work, median = found["work"], found["median"]
    assert work["unique_tokens"] <= work["prompt_tokens"] - 4 * SHOT
    assert 5 <= work["answer_tokens"] <= 5 * work["longest_answer"] <= 40
    assert median["differing"] == 0
    assert min(median[s] for s in ("static", "ours", "floor", "static_cpu", "ours_cpu")) > 0


def test_command_refuses_what_it_does_not_know():
    arguments = ["--shape", "tinny", "--mean", "1", "--fewshot", "99", "--items", "0"]
    refused = CliRunner().invoke(app, ["bench", "generate", *arguments])
    assert isinstance(refused.exception, ConfigError)
    assert len(refused.exception.faults) == 4
