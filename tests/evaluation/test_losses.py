"""Smooth losses and their gradients against formulas and differences of plain scoring."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

from automerge.evaluation.base import Settings, SlopeScorer
from automerge.evaluation.lm_eval.losses import smooth_objectives
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
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


def descended(model, scorer, items):
    """Losses, scores, and each loss's gradient."""
    gradients: dict[str, list[torch.Tensor]] = {}

    def backward(name, loss, keep):
        parts = torch.autograd.grad(loss, list(model.parameters()), retain_graph=keep)
        known = gradients.setdefault(name, [torch.zeros_like(p) for p in parts])
        gradients[name] = [a + b for a, b in zip(known, parts, strict=True)]

    model.requires_grad_(True)
    scored = scorer.score_with_slopes(items, TEMPERATURES, backward)
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


def test_a_generated_answer_has_the_loss_of_the_documents_target(opened):
    model, scorer, task_set, items, _ = opened
    scored, gradients = descended(model, scorer, items)
    tokenizer = make_tokenizer()
    losses = []
    for doc in items["generate"]:
        instance = scorer._instances["generate", doc][0]
        target = task_set.tasks["generate"].doc_to_target(instance.doc)
        context = tokenizer(instance.args[0]).input_ids
        whole = tokenizer(instance.args[0] + " " + target).input_ids
        tokens = torch.tensor([whole])
        with torch.no_grad():
            scores = model(tokens).logits.log_softmax(-1)[0]
        own = [scores[i - 1, whole[i]].item() for i in range(len(context), len(whole))]
        losses.append(-sum(own) / len(own))
    assert scored.losses["generate"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert any(g.abs().max() > 0 for g in gradients["generate"])
