"""A task that cannot work says so in one sentence, with file and line, before it is run."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.guards import InvalidOutput
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.objective import MAX_LOG_PERPLEXITY, ItemScores, estimate
from tests.evaluation.toys import make_model, make_tokenizer


@pytest.fixture
def folder(task_folder, tmp_path):
    return copy_tasks(task_folder, tmp_path / "tasks")


def refusal(folder, name, **settings):
    settings = Settings(folder, **settings)
    with pytest.raises(PreflightError) as caught:
        LmEvalScorer(make_model(), make_tokenizer(), load_tasks([TaskSpec(name)], settings))
    text = str(caught.value)
    assert "\n" not in text
    assert name in text
    return text


PYTHON = {
    "def run(doc):\n    return (\n": ("SyntaxError", 2),
    "def run(doc):\n    return missing\n": ("'missing' is not defined", 2),
    "import nowhere_to_be_found\n": ("nowhere_to_be_found", 1),
    "def run(doc):\n    x = 1\n    raise KeyError('q')\n": ("KeyError", 3),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("source", PYTHON)
@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "doc_to_choice"])
def test_python_that_fails_is_named_by_file_and_line(folder, source, key):
    said, line = PYTHON[source]
    (folder / "code.py").write_text(source)
    (folder / "own.yaml").write_text(
        f"include: choice.yaml\ntask: own\n{key}: !function code.run\n"
    )
    text = refusal(folder, "own", allow_task_code=True)
    assert said in text
    assert f"code.py:{line}" in text


def test_digests_of_tasks_with_python_are_the_same_in_every_process(folder):
    (folder / "code.py").write_text("def run(doc):\n    return doc['question']\n")
    (folder / "own.yaml").write_text(
        "include: choice.yaml\ntask: own\ndoc_to_text: !function code.run\n"
    )
    settings = Settings(folder, allow_task_code=True)
    first = load_tasks([TaskSpec("own")], settings).digests()
    (folder / "code.py").touch()  # lm-eval imports a changed file again
    assert load_tasks([TaskSpec("own")], settings).digests() == first


CHANGES = {
    "a function": ("code.py", "def run(doc):\n    return doc['question'] + '!'\n"),
    "an import": ("helper.py", "MARK = '?'\n"),
    "a text": ("shown.txt", "w2"),
    "few-shot examples": ("shots.py", "def some():\n    return [{'question': 'w9'}]\n"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_of_a_task_covers_the_python_it_uses(folder, what):
    (folder / "code.py").write_text(
        "import helper\nTEXT = 'shown.txt'\ndef run(doc):\n    return doc['question']\n"
    )
    (folder / "helper.py").write_text("MARK = '.'\n")
    (folder / "shown.txt").write_text("w1")
    (folder / "shots.py").write_text("def some():\n    return [{'question': 'w1'}]\n")
    (folder / "own.yaml").write_text(
        "include: choice.yaml\ntask: own\ndoc_to_text: !function code.run\n"
        "fewshot_config: {samples: !function shots.some}\n"
    )
    sys_path = [str(folder), *sys.path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys_path)
        specs, settings = (
            [TaskSpec("own"), TaskSpec("choice")],
            Settings(folder, allow_task_code=True),
        )
        before = load_tasks(specs, settings).digests()
        name, text = CHANGES[what]
        (folder / name).write_text(text)
        after = load_tasks(specs, settings).digests()
    assert after["own"] != before["own"]
    assert after["choice"] == before["choice"]


FAILING = {
    "a wrong key": "    return {'acc': doc['ansver']}\n",
    "an index": "    return {'acc': results[9][0]}\n",
    "what is not a number": "    return {'acc': None}\n",
    "an item in the middle": "    assert doc['answer'] != 2\n    return {'acc': 1.0}\n",
}


@pytest.mark.parametrize("what", FAILING)
def test_what_judges_answers_is_tried_on_several_items_before_anything_is_measured(folder, what):
    rows = [
        {"question": "w1", "choices": ["w1", "w2"], "answer": int(i > 3) * 2} for i in range(20)
    ]
    (folder / "data" / "some.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "code.py").write_text(f"def judge(doc, results):\n{FAILING[what]}")
    (folder / "own.yaml").write_text(
        "include: choice.yaml\ntask: own\nprocess_results: !function code.judge\n"
        "doc_to_target: 0\ndataset_kwargs: {data_files: {test: tasks/data/some.jsonl}}\n"
    )
    text = refusal(folder, "own", allow_task_code=True)
    assert ("code.py:2" in text) == (what != "what is not a number")
    assert "document " in text


def test_a_task_that_reads_numbers_only_is_not_refused(folder):
    (folder / "code.py").write_text(
        "def judge(doc, results):\n    return {'exact_match': float(int(results[0]) == 3)}\n"
    )
    (folder / "own.yaml").write_text(
        "include: generate.yaml\ntask: own\nprocess_results: !function code.judge\n"
    )
    task_set = load_tasks([TaskSpec("own")], Settings(folder, allow_task_code=True))
    LmEvalScorer(make_model(), make_tokenizer(), task_set)


def test_a_class_whose_metrics_fail_is_named(folder):
    (folder / "code.py").write_text(
        "from lm_eval.api.task import ConfigurableTask\n"
        "class Own(ConfigurableTask):\n"
        "    def __init__(self, config):\n"
        "        super().__init__(config={k: v for k, v in config.items() if k != 'class'})\n"
        "    def aggregation(self):\n"
        "        return {'acc': self.nothing}\n"
    )
    (folder / "own.yaml").write_text("include: choice.yaml\ntask: own\nclass: !function code.Own\n")
    text = refusal(folder, "own", allow_task_code=True)
    assert "code.py:6" in text
    assert "nothing" in text


def test_a_missing_name_in_what_judges_answers_is_found_before_any_is(folder):
    (folder / "code.py").write_text("def judge(doc, results):\n    return {'acc': score(doc)}\n")
    (folder / "own.yaml").write_text(
        "include: choice.yaml\ntask: own\nprocess_results: !function code.judge\n"
    )
    text = refusal(folder, "own", allow_task_code=True)
    assert "'score' is not defined" in text
    assert "code.py:2" in text


def test_more_examples_than_documents_are_refused(folder):
    (folder / "own.yaml").write_text("include: choice.yaml\ntask: own\nnum_fewshot: 40\n")
    assert "shows 40 examples, but there are only 32 documents" in refusal(folder, "own")


def test_an_item_without_choices_is_named(folder):
    rows = [
        json.loads(line) for line in (folder / "data" / "choice.jsonl").read_text().splitlines()
    ]
    del rows[5]["choices"]
    (folder / "data" / "some.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "own.yaml").write_text(
        "include: choice.yaml\ntask: own\n"
        "dataset_kwargs: {data_files: {test: tasks/data/some.jsonl}}\n"
    )
    assert "document 5" in refusal(folder, "own")


def test_a_tokenizer_without_a_chat_template_says_so(folder):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    task_set = load_tasks([TaskSpec("choice")], Settings(folder, apply_chat_template=True))
    with pytest.raises(PreflightError, match=r"chat.template") as caught:
        LmEvalScorer(make_model(), tokenizer, task_set)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "metric"), [("word", "perplexity"), ("rolling", "word_perplexity")]
)
def test_a_perplexity_that_overflows_makes_the_output_invalid(folder, task, metric):
    task_set = load_tasks([TaskSpec(task, metric)], Settings(folder))
    model = make_model()
    scorer = LmEvalScorer(model, make_tokenizer(), task_set)
    with torch.no_grad():
        model.lm_head.weight *= 1e4
    items = {name: tuple(range(len(docs))) for name, docs in task_set.documents().items()}
    with pytest.raises(InvalidOutput, match=r"is e\^\d+; the merged weights are broken"):
        scorer.score(items)


def test_estimates_of_perplexities_never_overflow():
    items = tuple(("t", i) for i in range(4))
    scores = ItemScores(items, (-1e3, -2e4, -1e5, -1.0), (1.0, 2.0, 1.0, 1.0))
    for aggregation in ("perplexity", "weighted_perplexity"):
        assert estimate(scores, aggregation).value == pytest.approx(
            2.718281828459045**MAX_LOG_PERPLEXITY, rel=1e-9
        )
