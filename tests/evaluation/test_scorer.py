"""The scorer against stock lm-eval, on real tiny models and tasks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.guards import (
    ENDLESS,
    Generation,
    InvalidOutput,
    check_generations,
    generation_notes,
    loops,
)
from automerge.evaluation.lm_eval.answers import Answers
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.evaluation.loglikelihood.packing import unique_tokens
from automerge.objective import estimate
from automerge.trial import GENERATING
from tests.evaluation.stock import stock as as_it_is
from tests.evaluation.toys import make_model, make_tokenizer, write_tasks

SPECS = (
    TaskSpec("choice", "acc"),
    TaskSpec("choice", "acc_norm"),
    TaskSpec("single", "acc"),
    TaskSpec("shots", "acc"),
    TaskSpec("both", "acc_norm"),
    TaskSpec("word", "perplexity"),
    TaskSpec("rolling", "word_perplexity"),
    TaskSpec("rolling", "bits_per_byte"),
    TaskSpec("generate", "exact_match,word", direction="maximize"),
)


@pytest.fixture(scope="module")
def folder(task_folder, tmp_path_factory):
    return copy_tasks(task_folder, tmp_path_factory.mktemp("run") / "tasks")


@pytest.fixture(scope="module")
def task_set(folder):
    return load_tasks(SPECS, Settings(include_path=folder))


def all_items(task_set):
    return {name: tuple(range(len(docs))) for name, docs in task_set.documents().items()}


def stock(model, folder, tasks, **options):
    """Samples of lm-eval's own `simple_evaluate`, by task and filter, then doc id."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with as_it_is(folder):
        lm = HFLM(
            pretrained=model, tokenizer=make_tokenizer(), batch_size=8, softmax_dtype="float32"
        )
        results = simple_evaluate(
            model=lm,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
            **options,
        )
    samples = {}
    for task, rows in results["samples"].items():
        for row in rows:
            samples.setdefault((task, row["filter"]), {})[row["doc_id"]] = row
    return samples, results["results"]


def assert_equal_to_stock(scorer, task_set, items, samples, results):
    answers = scorer.answer(items)
    scores = scorer.judge(items, answers)[0]
    for objective in task_set.objectives:
        got = scores[objective.name]
        assert got.items
        for place, (task, doc_id) in enumerate(got.items):
            row = samples[task, objective.filter][doc_id]
            expected = row[objective.metric]
            weighted = isinstance(expected, tuple)
            value, weight = expected if weighted else (expected, None)
            assert got.values[place] == pytest.approx(value, abs=1e-4 * (1 + abs(value) / 50))
            if weighted:
                assert got.weights[place] == weight
            for answer, stock_answer in zip(
                answers.by_item[task, doc_id], row["resps"], strict=True
            ):
                if isinstance(answer, tuple):
                    assert answer.logprob == pytest.approx(stock_answer[0][0], abs=1e-4)
                    assert answer.greedy == stock_answer[0][1]
                elif isinstance(answer, str):
                    assert answer == stock_answer[0]
        if len(task_set.members[objective.name]) == 1:
            key = f"{objective.metric},{objective.filter}"
            value = estimate(got, objective.aggregation).value
            assert value == pytest.approx(results[objective.task][key], rel=1e-4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2", "bloom", "mamba")]


@pytest.mark.sample(2)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2", *SLOW])
def test_item_scores_are_those_of_stock_lm_eval(architecture, task_set, folder):
    model = make_model(architecture)
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    samples, results = stock(model, folder, task_set.tasks)
    assert_equal_to_stock(scorer, task_set, all_items(task_set), samples, results)


FIVE = (
    TaskSpec("five_choice", "acc_norm"),
    TaskSpec("five_single", "acc"),
    TaskSpec("five_word", "perplexity"),
    TaskSpec("five_generate", "exact_match,word"),
)


@pytest.mark.sample(1)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "bloom"])
def test_examples_shared_by_all_items_change_no_score_and_are_run_once(architecture, folder):
    task_set = load_tasks(FIVE, Settings(folder))
    model = make_model(architecture)
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    items = all_items(task_set)
    samples, results = stock(model, folder, task_set.tasks)
    assert_equal_to_stock(scorer, task_set, items, samples, results)
    asked = {task: items[task] for task in ("five_choice", "five_word")}
    requests = scorer.requests(asked)
    tokens = sum(len(request.inputs) for request in requests)
    if architecture == "bloom":
        assert scorer.answer(asked).tokens > 0.5 * tokens
    else:
        assert scorer.answer(asked).tokens < 1.3 * unique_tokens(requests) < 0.3 * tokens


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "qwen2", "bloom"])
def test_500_items_of_every_kind_score_as_in_stock_lm_eval(architecture, tmp_path):
    (tmp_path / "made").mkdir()
    made = write_tasks(tmp_path / "made", items=500, generated=500, texts=500)
    folder = copy_tasks(made, tmp_path / "tasks")
    task_set = load_tasks([*SPECS, *FIVE], Settings(folder))
    model = make_model(architecture)
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=32)
    samples, results = stock(model, folder, task_set.tasks)
    assert_equal_to_stock(scorer, task_set, all_items(task_set), samples, results)


def test_chat_templates_and_system_instruction_reach_the_prompts_as_in_lm_eval(folder):
    settings = Settings(folder, apply_chat_template=True, system_instruction="w1 w2")
    specs = (TaskSpec("shots", "acc"), TaskSpec("generate", "exact_match,word"))
    task_set = load_tasks(specs, settings)
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    samples, results = stock(
        model,
        folder,
        task_set.tasks,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        system_instruction="w1 w2",
    )
    assert_equal_to_stock(scorer, task_set, all_items(task_set), samples, results)


def test_few_shot_and_generation_overrides_are_those_of_lm_eval(folder):
    gen_kwargs = {"max_gen_toks": 3, "until": ["w9"]}
    specs = (
        TaskSpec("choice", "acc", num_fewshot=3),
        TaskSpec("generate", "exact_match,first", num_fewshot=3, gen_kwargs=gen_kwargs),
    )
    task_set = load_tasks(specs, Settings(folder))
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    samples, results = stock(model, folder, task_set.tasks, num_fewshot=3, gen_kwargs=gen_kwargs)
    assert_equal_to_stock(scorer, task_set, all_items(task_set), samples, results)


def test_contexts_longer_than_the_model_are_cut_as_in_lm_eval(folder):
    task_set = load_tasks([TaskSpec("shots", "acc"), TaskSpec("rolling")], Settings(folder))
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8, max_length=16)
    model.config.max_position_embeddings, before = 16, model.config.max_position_embeddings
    samples, results = stock(model, folder, task_set.tasks)
    model.config.max_position_embeddings = before
    assert_equal_to_stock(scorer, task_set, all_items(task_set), samples, results)


def test_a_subset_scores_as_the_same_items_of_the_whole(task_set):
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set, batch_size=8)
    whole = scorer.score(all_items(task_set)).scores
    part = scorer.score({task: ids[1::4] for task, ids in all_items(task_set).items()}).scores
    for name, scores in part.items():
        expected = dict(zip(whole[name].items, whole[name].values, strict=True))
        assert 0 < len(scores.items) < len(expected)
        assert scores.values == pytest.approx([expected[i] for i in scores.items], abs=1e-4)


def test_overwritten_weights_are_the_ones_scored(task_set):
    live, other = make_model(seed=0), make_model(seed=1)
    items = {task: ids[:8] for task, ids in all_items(task_set).items()}
    scorer = LmEvalScorer(live, make_tokenizer(), task_set, batch_size=8)
    first = scorer.score(items).scores
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            parameter.copy_(other.get_parameter(name))
    second = scorer.score(items).scores
    fresh = LmEvalScorer(other, make_tokenizer(), task_set, batch_size=8).score(items).scores
    assert second == fresh
    assert first != second


def test_scoring_leaves_the_callers_generators_alone(task_set):
    import random

    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set, batch_size=8)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    scorer.score({task: ids[:5] for task, ids in all_items(task_set).items()})
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


@pytest.mark.parametrize("task", ["choice", "rolling", "generate"])
def test_one_nan_weight_makes_the_output_invalid(folder, task):
    task_set = load_tasks([TaskSpec(task)], Settings(folder))
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(InvalidOutput, match=f"not finite in task '{task}'"):
        scorer.score(all_items(task_set))


def test_a_model_that_ignores_its_input_is_invalid(folder):
    task_set = load_tasks([TaskSpec("choice")], Settings(folder))
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(InvalidOutput, match="ignores its input"):
        scorer.score(all_items(task_set))


def test_generation_notes_say_how_many_texts_were_cut_empty_or_alike(folder):
    task_set = load_tasks([TaskSpec("generate", "exact_match,word")], Settings(folder))
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set)
    scored = scorer.score(all_items(task_set))
    notes = {"empty", "truncated", "looping", "repeated"}
    assert set(scored.notes) == {
        *(f"generate/{note}" for note in notes),
        "generate,word/unextracted",
        "generated/continuous",
        GENERATING,
    }
    assert all(0 <= share <= 1 for share in scored.notes.values())
    assert scored.notes[GENERATING] > 0.5, "there is nothing else to run"
    texts = [text for (text,) in scorer.answer(all_items(task_set)).by_item.values()]
    missed = sum(re.search("w[0-9]+", text) is None for text in texts) / len(texts)
    assert scored.notes["generate,word/unextracted"] == missed
    loop = [1, 2] * 3
    assert generation_notes(
        "t",
        [
            Generation("a", [7], True),
            Generation("a", [7], False),
            Generation("", [], False),
            Generation("b", [5, *loop], False),
        ],
    ) == {"t/empty": 0.25, "t/truncated": 0.25, "t/looping": 0.25, "t/repeated": 0.5}


def test_answers_without_what_the_filter_looks_for_are_counted(folder):
    task_set = load_tasks(
        [TaskSpec("generate", "exact_match,word"), TaskSpec("generate", "exact_match,first")],
        Settings(folder),
    )
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set)
    items = {"generate": (0, 1, 2, 3)}
    texts = ["w1 .", "nothing", "", "A w2"]
    answers = Answers({("generate", i): (text,) for i, text in enumerate(texts)}, 0)
    _, notes = scorer.judge(items, answers)
    assert notes == {"generate,word/unextracted": 0.5}


def test_output_tokens_are_those_of_the_answers_stock_lm_eval_gets(folder):
    specs = [TaskSpec("generate", "output_tokens"), TaskSpec("generate", "exact_match,word")]
    task_set = load_tasks(specs, Settings(folder))
    lengths = task_set.objectives[0]
    assert (lengths.direction, lengths.aggregation) == ("minimize", "mean")
    model, tokenizer = make_model(), make_tokenizer()
    scores = (
        LmEvalScorer(model, tokenizer, task_set).score(all_items(task_set)).scores[lengths.name]
    )
    samples, _ = stock(model, folder, ["generate"])
    texts = {doc: row["resps"][0][0] for doc, row in samples["generate", "word"].items()}
    expected = {
        doc: len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for doc, text in texts.items()
    }
    assert len(set(expected.values())) > 1
    found = zip(scores.items, scores.values, strict=True)
    assert {doc: value for (_, doc), value in found} == expected
    with pytest.raises(PreflightError, match="has no metric 'output_tokens'"):
        load_tasks([TaskSpec("choice", "output_tokens")], Settings(folder))


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([], False),
        ([1, 2, 3, 4, 5, 6], False),
        ([1, 1, 1, 1, 1], False),
        ([1, 1, 1, 1, 1, 1], True),
        ([9, 1, 2, 1, 2, 1, 2], True),
        ([9, 1, 2, 1, 2, 1, 2, 1], True),
        ([1, 2, 1, 2, 1, 2, 9], False),
        ([1, 2, 1, 2, 9, 1, 2], False),
        (list(range(64)) * 3, True),
        (list(range(65)) * 3, False),
    ],
)
def test_a_loop_is_a_phrase_three_times_at_the_end(tokens, found):
    assert loops(tokens) is found


def test_only_one_endless_loop_for_every_prompt_makes_a_model_invalid():
    endless = Generation("!" * 40, [1] * 40, True)
    other = Generation("w1", [3], False)
    with pytest.raises(InvalidOutput, match=r"40 of 41 generations in task 't' are the same"):
        check_generations("t", [*[endless] * 40, other])
    weak = {
        "some answers are others": [*[endless] * 37, *[other] * 3],
        "few": [endless] * 19,
        "silent": [Generation("", [], False)] * 40,
        "alike": [Generation("yes", [4], False)] * 40,
        "each in its own way": [Generation(f"w{i} " * 40, [i] * 40, True) for i in range(40)],
        "ended": [Generation("!" * 40, [1] * 40, False)] * 40,
        "short": [Generation("!" * 31, [1] * 31, True)] * 40,
    }
    for generations in weak.values():
        check_generations("t", generations)


def test_a_model_that_never_ends_is_cut_at_the_limit_and_called_broken(folder):
    word = make_tokenizer().convert_tokens_to_ids("w1")

    def scored(limit):
        gen_kwargs = {"until": ["never"], "max_gen_toks": limit}
        spec = TaskSpec("generate", "exact_match,word", gen_kwargs=gen_kwargs)
        task_set = load_tasks([spec], Settings(folder))
        model = make_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.model.embed_tokens.weight.fill_(1)
            model.model.norm.weight.fill_(1)
            model.lm_head.weight[word].fill_(1)
        return LmEvalScorer(model, make_tokenizer(), task_set).score(all_items(task_set))

    assert scored(ENDLESS - 1).notes["generate/truncated"] == 1
    with pytest.raises(InvalidOutput, match="generations in task 'generate' are the same endless"):
        scored(ENDLESS)


def test_templates_are_rendered_once_for_a_document(folder, monkeypatch):
    from lm_eval.api import task as lm_eval_task

    task_set = load_tasks([TaskSpec("generate")], Settings(folder))
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set)
    items = all_items(task_set)
    first = scorer.score(items).scores
    monkeypatch.setattr(lm_eval_task.utils, "apply_template", None)
    assert scorer.score(items).scores == first
