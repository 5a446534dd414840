"""Margins of items against accuracy, and against what a task's rows say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from tests.evaluation.toys import make_model, make_tokenizer

TASK = (
    "task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: data/choice.jsonl}}}}"
    "\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: 'Q : {{{{question}}}} A :'\n"
    "doc_to_choice: choices\ndoc_to_target: {target}\nmetric_list:\n"
    "  - {{metric: acc}}\n  - {{metric: acc_norm}}\n  - {{metric: acc_bytes}}\n"
)
TASKS = {
    "index": TASK.format(name="index", target="answer"),
    "text": TASK.format(name="text", target="'{{choices[answer]}}'"),
    "several": TASK.format(name="several", target="'{{[answer, (answer + 1) % 4]}}'"),
    "all": TASK.format(name="all", target="'{{[0, 1, 2, 3]}}'"),
    "strange": TASK.format(name="strange", target="'nothing'"),
    "beyond": TASK.format(name="beyond", target="'{{answer + 2}}'"),
    "own": TASK.format(name="own", target="answer") + "process_results: !function own.judge\n",
    "mutual": TASK.format(name="mutual", target="answer") + "  - {metric: acc_mutual_info}\n",
    "contexts": TASK.format(name="contexts", target="question").replace(
        "doc_to_text: 'Q : {{question}} A :'", "doc_to_text: answer"
    ),
}
OWN = "def judge(doc, results):\n    return {'acc': 1.0, 'acc_norm': 0.0, 'acc_bytes': 0.0}\n"
DIVIDED = ("acc_norm", "acc_bytes")
SPECS = (
    *(TaskSpec(name, "acc") for name in TASKS),
    *(
        TaskSpec(name, metric)
        for name in ("index", "mutual")
        for metric in ("acc_norm", "acc_bytes")
    ),
    TaskSpec("mutual", "acc_mutual_info"),
    TaskSpec("word", "acc"),
    TaskSpec("rolling", "bits_per_byte"),
    TaskSpec("generate", "exact_match,word"),
)
RIGHT = {
    "several": lambda answer: {answer, (answer + 1) % 4},
    "beyond": lambda answer: {answer + 2},
}


@pytest.fixture(scope="module")
def scored(task_folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("made")
    for path in task_folder.rglob("*"):
        if path.is_file():
            (made / path.relative_to(task_folder)).parent.mkdir(exist_ok=True)
            (made / path.relative_to(task_folder)).write_bytes(path.read_bytes())
    (made / "own.py").write_text(OWN)
    for name, text in TASKS.items():
        (made / f"{name}.yaml").write_text(text)
    folder = copy_tasks(made, tmp_path_factory.mktemp("run") / "tasks")
    settings = Settings(include_path=folder, allow_task_code=True)
    task_set = load_tasks(SPECS, settings)
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set, batch_size=8)
    items = {name: tuple(range(len(docs))) for name, docs in task_set.documents().items()}
    rows = [json.loads(line) for line in (made / "data" / "choice.jsonl").read_text().splitlines()]
    return task_set, scorer.answer(items), scorer.score(items), rows


def test_margins_are_what_the_metric_compares(scored):
    task_set, answers, found, rows = scored
    checked = 0
    for objective in task_set.objectives:
        if objective.name not in found.margins:
            continue
        scores = found.scores[objective.name]
        accuracy = dict(zip(scores.items, scores.values, strict=True))
        own = found.margins[objective.name]
        for (task, doc), margin in zip(own.items, own.values, strict=True):
            row = rows[doc]
            values = np.array([answer.logprob for answer in answers.by_item[task, doc]])
            if objective.metric == "acc_mutual_info":
                values[:4] -= values[4:]
            unit = {"acc_norm": str, "acc_bytes": str.encode}.get(objective.metric)
            lengths = np.array([len(unit(choice)) if unit else 1 for choice in row["choices"]])
            values = values[:4] / lengths
            right = RIGHT.get(task, lambda answer: {answer})(row["answer"])
            best = max(values[k] for k in right)
            assert margin == pytest.approx(best - max(np.delete(values, list(right))), abs=1e-12)
            assert accuracy[task, doc] == (margin > 0)
            checked += 1
    assert checked > 200


def test_every_item_has_a_margin_where_its_right_answer_is_one_of_its_choices(scored):
    _, _, found, rows = scored
    whole = {"index:acc", "text", "several", "mutual:acc", "contexts"}
    whole |= {
        f"{task}:{metric}" for task in ("index", "mutual") for metric in ("acc_norm", "acc_bytes")
    }
    whole |= {"mutual:acc_mutual_info"}
    for name in whole:
        assert found.margins[name].items == found.scores[name].items
    beyond = [("beyond", i) for i, row in enumerate(rows) if row["answer"] < 2]
    assert list(found.margins["beyond"].items) == beyond
    assert set(found.margins) == whole | {"beyond"}
