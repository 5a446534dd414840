"""Models with an encoder: item scores and texts are those of stock lm-eval, each prompt alone."""

from __future__ import annotations

import random

import pytest
import torch

from automerge.evaluation.base import Settings
from automerge.evaluation.generation.auto import AutoGenerator
from automerge.evaluation.generation.encoded import EncodedGenerator
from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.guards import InvalidOutput
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.evaluation.loglikelihood.encoded import EncodedLogLikelihoods
from automerge.evaluation.loglikelihood.packing import Request
from tests.evaluation.stock import stock as as_it_is
from tests.evaluation.toys import ENCODER_DECODERS, make_encoder_decoder, make_tokenizer, phrase

SPECS = (
    TaskSpec("choice", "acc"),
    TaskSpec("choice", "acc_norm"),
    TaskSpec("shots", "acc"),
    TaskSpec("word", "perplexity"),
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


def stock(model, folder, tasks, batch_size=1):
    """lm-eval's own samples, by task and filter, then doc id."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with as_it_is(folder):
        lm = HFLM(
            pretrained=model,
            backend="seq2seq",
            tokenizer=make_tokenizer(),
            batch_size=batch_size,
            softmax_dtype="float32",
        )
        results = simple_evaluate(
            model=lm,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )
    return {
        (task, row["filter"], row["doc_id"]): row
        for task, rows in results["samples"].items()
        for row in rows
    }


@pytest.mark.parametrize("architecture", ["t5", pytest.param("bart", marks=pytest.mark.slow)])
def test_item_scores_and_texts_are_those_of_stock_lm_eval(architecture, task_set, folder):
    model = make_encoder_decoder(architecture)
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    items = all_items(task_set)
    samples = stock(model, folder, task_set.tasks)
    answers = scorer.answer(items)
    scores, _ = scorer.judge(items, answers)
    for objective in task_set.objectives:
        own = scores[objective.name]
        assert len(set(own.values)) > 1 or objective.task == "generate"
        for (task, doc_id), value in zip(own.items, own.values, strict=True):
            row = samples[task, objective.filter, doc_id]
            expected = row[objective.metric]
            expected = expected[0] if isinstance(expected, tuple) else expected
            assert value == pytest.approx(expected, abs=1e-4 * (1 + abs(expected) / 50))
            for answer, (said,) in zip(answers.by_item[task, doc_id], row["resps"], strict=True):
                if isinstance(answer, tuple):
                    assert answer.logprob == pytest.approx(said[0], abs=1e-4)
                    assert answer.greedy == said[1]
                elif isinstance(answer, str):
                    assert answer == said
    texts = [answers.by_item["generate", i][0] for i in items["generate"]]
    assert len(set(texts)) > 5
    assert len({len(text.split()) for text in texts}) > 3
    assert scorer._generated == "batched"


def requests_of(contexts, seed=0):
    """Three continuations of one to four tokens for each of some contexts, in mixed order."""
    rng = random.Random(seed)

    def tokens(low, high):
        return tuple(rng.randrange(3, 72) for _ in range(rng.randint(low, high)))

    made = [Request(c, tokens(1, 4)) for c in [tokens(2, 20) for _ in range(contexts)] * 3]
    rng.shuffle(made)
    return made


def plain(model, request):
    """What a forward pass of one context and one continuation says."""
    inputs, targets = (torch.tensor([t]) for t in (request.inputs, request.targets))
    with torch.no_grad():
        logits = model(input_ids=inputs, labels=targets).logits[0].log_softmax(-1)
    own = logits.gather(-1, targets[0, :, None]).sum().item()
    return own, logits.argmax(-1).tolist() == list(request.targets)


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_a_context_is_encoded_once_for_all_of_its_continuations(architecture):
    model = make_encoder_decoder(architecture)
    read = []
    hook = model.get_encoder().register_forward_pre_hook(
        lambda _, args, given: read.append(given["attention_mask"].sum().item()), with_kwargs=True
    )
    scorer = EncodedLogLikelihoods(model)
    requests = requests_of(9)
    scorer.run(requests, 4)
    read.clear()
    answers, tokens = scorer.run(requests, 4)
    hook.remove()
    contexts = {request.inputs for request in requests}
    assert sum(read) == sum(map(len, contexts))
    assert tokens == sum(read) + sum(len(request.targets) for request in requests)
    for request, (logprob, greedy) in zip(requests, answers, strict=True):
        expected = plain(model, request)
        assert logprob == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]


def test_a_model_that_does_not_take_what_an_encoder_found_is_run_whole():
    model = make_encoder_decoder("t5")
    taken = model.forward

    def forward(encoder_outputs=None, **inputs):
        if encoder_outputs is not None:
            raise TypeError("no")
        return taken(**inputs)

    model.forward = forward
    requests = requests_of(5)
    answers, _ = EncodedLogLikelihoods(model).run(requests, 4)
    model.forward = taken
    for request, (logprob, _) in zip(requests, answers, strict=True):
        assert logprob == pytest.approx(plain(model, request)[0], abs=1e-4)


def wrapped(model, batch_size):
    from lm_eval.models.huggingface import HFLM

    tokenizer = make_tokenizer()
    return HFLM(pretrained=model, backend="seq2seq", tokenizer=tokenizer, batch_size=batch_size)


def asked(seed=1, n=7, **settings):
    from lm_eval.api.instance import Instance

    rng = random.Random(seed)
    settings = {"until": ["w7", "w2"], "max_gen_toks": 6, **settings}
    return [
        Instance("generate_until", {}, (phrase(rng, 1, 15), dict(settings)), i) for i in range(n)
    ]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("architecture", "forced"), [("t5", None), ("bart", 2)])
def test_texts_are_lm_evals_for_each_prompt_alone_whatever_they_are_batched_with(
    architecture, forced
):
    model = make_encoder_decoder(architecture)
    model.generation_config.forced_eos_token_id = forced
    requests = asked()
    expected = wrapped(model, 1).generate_until(requests, disable_tqdm=True)
    generator = EncodedGenerator(wrapped(model, 5))
    assert generator.obstacle is None
    assert generator.generate(requests) == expected
    assert [generator.generate([request])[0] for request in requests] == expected
    assert StaticGenerator(wrapped(model, 5)).generate(requests) == expected
    assert len(set(expected)) > 4
    ended = [text for text in expected if len(text.split()) < 6]
    assert 0 < len(ended) < len(expected)


def test_beams_are_left_to_lm_eval():
    model = make_encoder_decoder("bart")
    model.generation_config.num_beams = 2
    generator = AutoGenerator(wrapped(model, 5))
    requests = asked(n=2)
    expected = wrapped(model, 1).generate_until(requests, disable_tqdm=True)
    assert generator.generate(requests) == expected
    assert generator.chosen == "static: its generation_config.json sets num_beams: 2"


def test_broken_weights_are_found(task_set):
    model = make_encoder_decoder("t5")
    scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    with torch.no_grad():
        model.decoder.block[0].layer[0].SelfAttention.q.weight[0, 0] = float("nan")
    for task in ("choice", "generate"):
        with pytest.raises(InvalidOutput, match=f"not finite in task '{task}'"):
            scorer.score({task: (0, 1, 2)})
