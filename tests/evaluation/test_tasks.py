from __future__ import annotations

import pickle

import pytest

from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval import stock_names
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import (
    TaskSpec,
    TasksRefused,
    load_tasks,
)
from automerge.objective import Objective
from tests.evaluation.toys import refusals


@pytest.fixture(scope="module")
def folder(task_folder, tmp_path_factory):
    return copy_tasks(task_folder, tmp_path_factory.mktemp("run") / "tasks")


def faults(folder, *specs, **settings):
    return [
        (fault.spec, fault.field, fault.message)
        for fault in refusals(specs, Settings(folder, **settings))
    ]


def test_objectives_take_metric_filter_direction_and_aggregation_from_the_task(folder):
    specs = (
        TaskSpec("choice"),
        TaskSpec("generate", "exact_match,word", name="words"),
        TaskSpec("word", "perplexity"),
        TaskSpec("rolling", "bits_per_byte"),
        TaskSpec("both", "acc_norm", direction="minimize"),
    )
    task_set = load_tasks(specs, Settings(folder))
    assert task_set.objectives == (
        Objective("choice", "choice", "acc", "none", "maximize", "mean"),
        Objective("words", "generate", "exact_match", "word", "maximize", "mean"),
        Objective("word", "word", "perplexity", "none", "minimize", "perplexity"),
        Objective("rolling", "rolling", "bits_per_byte", "none", "minimize", "bits_per_byte"),
        Objective("both", "both", "acc_norm", "none", "minimize", "mean"),
    )
    assert task_set.members["both"] == ("choice", "single")
    assert sorted(task_set.tasks) == ["choice", "generate", "rolling", "single", "word"]
    assert len(task_set.documents()["choice"]) == 32
    assert task_set.digests()["choice"] != task_set.digests()["single"]


def test_two_metrics_of_one_task_get_two_names(folder):
    specs = (TaskSpec("choice", "acc"), TaskSpec("choice", "acc_norm"))
    task_set = load_tasks(specs, Settings(folder))
    assert [o.name for o in task_set.objectives] == ["choice:acc", "choice:acc_norm"]
    assert list(task_set.tasks) == ["choice"]


def test_all_faults_are_found_at_once_and_name_what_is_valid(folder):
    found = faults(
        folder,
        TaskSpec("choice", "accuracy"),
        TaskSpec("generate", "exact_match,wrod"),
        TaskSpec("rolling", gen_kwargs={"until": ["x"]}),
        TaskSpec("both", "f1"),
    )
    assert [(spec, field) for spec, field, _ in found] == [
        (0, "metric"),
        (1, "metric"),
        (2, "gen_kwargs"),
        (3, "metric"),
        (3, "metric"),
    ]
    assert "acc, acc_norm" in found[0][2]
    assert "did you mean 'word'" in found[1][2]
    assert "exact_match,first" in found[1][2]


def test_faults_survive_pickling_and_name_their_spec(folder):
    with pytest.raises(TasksRefused) as caught:
        load_tasks([TaskSpec("choice", "nothing")], Settings(folder))
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.task_faults == caught.value.task_faults
    assert again.exit_code == 3


def test_one_task_cannot_have_two_settings(folder):
    found = faults(folder, TaskSpec("choice", num_fewshot=1), TaskSpec("both", num_fewshot=2))
    assert found[0][:2] == (1, "num_fewshot")
    assert "1 and 2" in found[0][2]


def test_sampled_generation_is_refused(folder):
    found = faults(folder, TaskSpec("generate", gen_kwargs={"do_sample": True, "temperature": 0.7}))
    assert found[0][1] == "gen_kwargs"
    assert "do_sample: false" in found[0][2]


def test_num_fewshot_that_lm_eval_would_ignore_is_refused(tmp_path, folder):
    copied = copy_tasks(folder, tmp_path / "tasks")
    (copied / "fixed.yaml").write_text("include: choice.yaml\ntask: fixed\nnum_fewshot: 0\n")
    found = faults(copied, TaskSpec("fixed", num_fewshot=5))
    assert found[0][1] == "num_fewshot"


def test_metrics_without_a_mean_over_items_are_refused(tmp_path, folder):
    copied = copy_tasks(folder, tmp_path / "tasks")
    (copied / "corpus.yaml").write_text(
        "include: choice.yaml\ntask: corpus\nmetric_list:\n"
        "  - {metric: f1, aggregation: f1, higher_is_better: true}\n"
    )
    ((_, field, message),) = faults(copied, TaskSpec("corpus"))
    assert field == "metric"
    assert "weighted_perplexity" in message


def test_a_task_that_cannot_be_loaded_is_a_fault_with_its_cause(tmp_path, folder):
    copied = copy_tasks(folder, tmp_path / "tasks")
    text = (copied / "choice.yaml").read_text().replace("choice.jsonl", "missing.jsonl")
    (copied / "gone.yaml").write_text(text.replace("task: choice", "task: gone"))
    ((_, field, message),) = faults(copied, TaskSpec("gone"))
    assert field == "task"
    assert "FileNotFoundError" in message


@pytest.mark.slow
def test_the_files_of_lm_eval_mention_every_name_of_its_index_and_state_most():
    from lm_eval.tasks import TaskManager

    every = TaskManager().all_tasks
    assert len(every) > 10_000
    assert [name for name in every if not stock_names.mentioned(name)] == []
    assert len(set(every) & set(stock_names.names())) > 0.7 * len(every)


def test_unknown_tasks_get_the_nearest_name_of_lm_eval_and_unreadable_files(tmp_path):
    (tmp_path / "broken.yaml").write_text("task: [")
    ((_, field, message),) = faults(tmp_path, TaskSpec("gsm8kk"))
    assert field == "task"
    assert "did you mean 'gsm8k'" in message
    assert "broken.yaml cannot be read" in message


ATTACKS = {
    "function": "doc_to_text: !function evil.run\n",
    "nested": "metric_list:\n  - {metric: acc, aggregation: !function evil.run}\n",
    "evaluate": "metric_list:\n  - {metric: ./evil.py, aggregation: mean}\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("included", [False, True])
def test_code_in_a_task_file_is_refused_before_it_runs(tmp_path, folder, attack, included):
    copied = copy_tasks(folder, tmp_path / "tasks")
    sentinel = tmp_path / "sentinel"
    code = f"import pathlib\npathlib.Path({str(sentinel)!r}).touch()\ndef run(*a): return 'w1'\n"
    (copied / "evil.py").write_text(code)
    text = ATTACKS[attack].replace("SENTINEL", str(sentinel))
    if included:
        (copied / "_base.yaml").write_text(f"include: choice.yaml\n{text}")
        (copied / "evil.yaml").write_text("include: _base.yaml\ntask: evil\n")
    else:
        (copied / "evil.yaml").write_text(f"include: choice.yaml\ntask: evil\n{text}")
    (copied / "group.yaml").write_text("group: evils\ntask: [evil, choice]\n")
    for name in ("evil", "evils"):
        found = faults(copied, TaskSpec(name))
        assert found
        assert "would run code" in found[0][2]
        assert ("_base" if included else "evil") + ".yaml:" in found[0][2]
    assert not sentinel.exists()
    if attack == "function":
        assert not faults(copied, TaskSpec("evil"), allow_task_code=True)
        assert sentinel.exists()
