"""Smooth losses and their gradients against formulas and differences of plain scoring."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from automerge.evaluation.base import Settings, SlopeScorer
from automerge.evaluation.lm_eval.losses import smooth_objectives
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.trial import Steering
from tests.evaluation.toys import make_model, make_tokenizer

SPECS = (
    TaskSpec("choice", "acc"),
    TaskSpec("choice", "acc_norm"),
    TaskSpec("single", "acc", direction="minimize"),
    TaskSpec("shots", "acc"),
    TaskSpec("word", "perplexity"),
    TaskSpec("word", "acc"),
    TaskSpec("rolling", "word_perplexity"),
    TaskSpec("rolling", "bits_per_byte"),
    TaskSpec("generate", "exact_match,word", direction="maximize"),
)
TEMPERATURES = {"choice": 0.7, "single": 1.3, "shots": 0.4}


@pytest.fixture(scope="module")
def opened(task_folder, tmp_path_factory):
    folder = copy_tasks(task_folder, tmp_path_factory.mktemp("run") / "tasks")
    task_set = load_tasks(SPECS, Settings(include_path=folder))
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=3)
    items = {name: tuple(range(0, len(docs), 3)) for name, docs in task_set.documents().items()}
    choices = (task_folder / "data" / "choice.jsonl").read_text().splitlines()
    return model, scorer, task_set, items, [json.loads(line) for line in choices]


def naive(task_set, items, answers, rows) -> dict[str, float]:
    """Each objective's loss from the answers of plain scoring."""
    losses = {}
    for objective in task_set.objectives:
        [task] = task_set.members[objective.name]
        own = [(doc, answers.by_item[task, doc]) for doc in items[task]]
        if task in TEMPERATURES:
            found = []
            for doc, each in own:
                values = np.array([answer.logprob for answer in each])
                if objective.metric == "acc_norm":
                    values = values / [len(choice) for choice in rows[doc]["choices"]]
                weights = np.exp(values / TEMPERATURES[task])
                found.append(1 - weights[rows[doc]["answer"]] / weights.sum())
            sign = -1 if objective.direction == "minimize" else 1
            losses[objective.name] = sign * float(np.mean(found))
        elif task == "word":
            losses[objective.name] = -float(np.mean([each[0].logprob for _, each in own]))
        elif task == "rolling":
            total = -sum(each[0] for _, each in own)
            texts = [task_set.documents()[task][doc] for doc, _ in own]
            losses[objective.name] = total / size(objective.metric, texts)
    return losses


def size(metric, documents) -> float:
    texts = [document["text"] for document in documents]
    if metric == "word_perplexity":
        return sum(len(text.split()) for text in texts)
    return sum(len(text.encode()) for text in texts) * math.log(2)


def descended(model, scorer, items, answers=None):
    """Losses, scores, and each loss's gradient."""
    gradients: dict[str, list[torch.Tensor]] = {}

    def backward(name, loss, keep):
        parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=keep)
        known = gradients.setdefault(name, [torch.zeros_like(p) for p in parts])
        gradients[name] = [a + b for a, b in zip(known, parts, strict=True)]

    model.requires_grad_(True)
    scored = scorer.score_with_slopes(items, Steering(TEMPERATURES, answers or {}), backward)
    model.requires_grad_(False)
    return scored, gradients


def test_losses_are_the_formulas_and_scores_those_of_plain_scoring(opened):
    model, scorer, task_set, items, rows = opened
    assert isinstance(scorer, SlopeScorer)
    scored, gradients = descended(model, scorer, items)
    plain = scorer.score(items)
    expected = naive(task_set, items, scorer.answer(items), rows)
    assert set(expected) | {"generate"} == set(scored.losses) == set(gradients)
    for name, loss in expected.items():
        assert scored.losses[name] == pytest.approx(loss, rel=1e-4), name
    for name, scores in plain.scores.items():
        assert scored.scores[name].items == scores.items
        assert scored.scores[name].values == pytest.approx(scores.values, rel=1e-4), name
    assert set(scored.margins) == set(plain.margins)


def test_the_driver_knows_which_objectives_have_a_loss(opened, task_folder, tmp_path):
    _, _, task_set, _, _ = opened
    assert smooth_objectives(task_set) == tuple(o.name for o in task_set.objectives)
    folder = copy_tasks(task_folder, tmp_path / "tasks")
    without = (TaskSpec("generate", "output_tokens", direction="minimize"), TaskSpec("word", "acc"))
    task_set = load_tasks(without, Settings(include_path=folder))
    assert smooth_objectives(task_set) == ("word",)


def test_what_is_handed_over_has_the_gradient_of_the_loss(opened):
    model, scorer, task_set, items, rows = opened
    _, gradients = descended(model, scorer, items)
    before = copy.deepcopy(model.state_dict())
    generator = torch.Generator().manual_seed(5)
    way = [torch.randn(p.shape, generator=generator) * p.std() for p in model.parameters()]
    step, ends = 0.01, []
    for by in (-step, step):
        with torch.no_grad():
            for p, w in zip(model.parameters(), way, strict=True):
                p += by * w
        ends.append(naive(task_set, items, scorer.answer(items), rows))
        model.load_state_dict(before)
    for name, gradient in gradients.items():
        if name in ends[0]:
            along = sum(float((g * w).sum()) for g, w in zip(gradient, way, strict=True))
            expected = (ends[1][name] - ends[0][name]) / (2 * step)
            # Log-likelihoods are rounded to some 2⁻²⁰ of themselves, and the loss bends.
            scale = max(abs(expected), abs(ends[0][name]))
            assert along == pytest.approx(expected, abs=0.02 * scale), name


def per_token(model, prompt, answer) -> float:
    """−log p per token of an answer, by a plain forward pass."""
    tokenizer = make_tokenizer()
    first, whole = len(tokenizer(prompt).input_ids), tokenizer(f"{prompt} {answer}").input_ids
    with torch.no_grad():
        scores = model(torch.tensor([whole])).logits.log_softmax(-1)[0]
    own = [scores[i - 1, whole[i]].item() for i in range(first, len(whole))]
    return -sum(own) / len(own)


def prompt_and_target(scorer, task_set, doc) -> tuple[str, str]:
    instance = scorer._instances["generate", doc][0]
    return instance.args[0], task_set.tasks["generate"].doc_to_target(instance.doc)


def test_a_generated_answer_has_the_loss_of_the_documents_target(opened):
    model, scorer, task_set, items, _ = opened
    scored, gradients = descended(model, scorer, items)
    pairs = [prompt_and_target(scorer, task_set, doc) for doc in items["generate"]]
    losses = [per_token(model, *pair) for pair in pairs]
    assert scored.losses["generate"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert any(g.abs().max() > 0 for g in gradients["generate"])


def test_where_a_right_answer_is_known_the_loss_is_that_of_it(opened):
    model, scorer, task_set, items, _ = opened
    first, *others = items["generate"]
    scored, _ = descended(
        model,
        scorer,
        items,
        {
            "generate": {("generate", first): "w3 w1 w4"},
            "rolling": {("generate", others[0]): "of another objective"},
        },
    )
    prompt, _ = prompt_and_target(scorer, task_set, first)
    losses = [per_token(model, prompt, "w3 w1 w4")]
    losses += [per_token(model, *prompt_and_target(scorer, task_set, doc)) for doc in others]
    assert scored.losses["generate"] == pytest.approx(np.mean(losses), rel=1e-4)


GENERATED = (
    TaskSpec("generate", "exact_match,word", name="found"),
    TaskSpec("generate", "exact_match,marked", name="marked"),
    TaskSpec("generate", "output_tokens", name="length"),
)


@pytest.fixture(scope="module")
def answered(opened, task_folder, tmp_path_factory):
    """The same model with other documents, every other of which it answers rightly, and a filter
    that finds no target: it looks for what follows a mark."""
    model, scorer, _, _, _ = opened
    folder = tmp_path_factory.mktemp("answered") / "tasks"
    shutil.copytree(task_folder, folder)
    path = folder / "data" / "generate.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    said = scorer.answer({"generate": tuple(range(len(rows)))}).by_item
    for doc, row in enumerate(rows):
        words = re.findall("w[0-9]+", said["generate", doc][0])
        row["answer"] = words[0] if words and doc % 2 == 0 else "nothing"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with (folder / "generate.yaml").open("a") as file:
        file.write(
            "  - {name: marked, filter: [{function: regex, regex_pattern: 'the answer is (.*)'}, "
            "{function: take_first}]}\n"
        )
    folder = copy_tasks(folder, tmp_path_factory.mktemp("copied") / "tasks")
    task_set = load_tasks(GENERATED, Settings(include_path=folder))
    own = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=3)
    return model, own, task_set, {"generate": tuple(range(len(rows)))}


def test_right_answers_are_those_with_a_score_of_one(answered):
    _, scorer, _, items = answered
    scored = scorer.score(items)
    said = scorer.answer(items).by_item
    pairs = zip(scored.scores["found"].items, scored.scores["found"].values, strict=True)
    right = {item: said[item][0] for item, value in pairs if value == 1}
    assert len(right) > 3
    assert scored.answers == {"found": right}


def test_a_target_that_the_metric_calls_wrong_is_no_answer_but_another_models_is(answered):
    model, scorer, task_set, items = answered
    scored, _ = descended(model, scorer, items)
    assert smooth_objectives(task_set) == ("found", "marked")
    assert set(scored.losses) == {"found"}
    known = {("generate", 4): "the answer is w9"}
    scored, _ = descended(model, scorer, items, {"marked": known})
    assert set(scored.losses) == {"found", "marked"}
    prompt, _ = prompt_and_target(scorer, task_set, 4)
    expected = per_token(model, prompt, known["generate", 4]) / len(items["generate"])
    assert scored.losses["marked"] == pytest.approx(expected, rel=1e-4)


def test_a_space_that_a_decoder_drops_is_put_back(opened):
    _, scorer, _, _, _ = opened
    tokens = scorer._tokens
    assert tokens.as_generated("w1", " ") == " w1"
    assert tokens.as_generated("\nw1", " ") == "\nw1"
