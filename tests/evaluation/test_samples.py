"""What is written for others reproduces our numbers with stock lm-eval."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from automerge.evaluation.base import Settings
from automerge.evaluation.item_file import write_samples
from automerge.evaluation.lm_eval.samples import reproduce_commands
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.evaluation.split import SplitPlan, split_documents
from automerge.objective import estimate
from tests.evaluation.toys import make_model, make_tokenizer


def test_copied_tasks_load_from_any_working_directory(task_folder, tmp_path, monkeypatch):
    copied = copy_tasks(task_folder, tmp_path / "tasks")
    assert "include: choice.yaml" in (copied / "shots.yaml").read_text()
    monkeypatch.chdir(tmp_path.parent)
    task_set = load_tasks([TaskSpec("shots"), TaskSpec("generate")], Settings(copied))
    files = task_set.tasks["shots"].get_config("dataset_kwargs")["data_files"]
    assert files == {"test": "tasks/data/choice.jsonl"}
    assert len(task_set.documents()["shots"]) == 32
    moved = copied.parent.rename(tmp_path.with_name(f"{tmp_path.name}_moved"))
    again = load_tasks([TaskSpec("shots"), TaskSpec("generate")], Settings(moved / "tasks"))
    assert again.digests() == task_set.digests()


def test_data_outside_the_folder_stay_where_they_are_and_includes_are_copied(
    task_folder, tmp_path, monkeypatch
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "task.yaml").write_text(
        "include: ../base.yaml\ntask: mine\n"
        "dataset_kwargs:\n  data_files: elsewhere/x.jsonl # here\n"
    )
    (tmp_path / "base.yaml").write_text("dataset_path: json\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    copied = copy_tasks(tmp_path / "mine", tmp_path / "run")
    text = (copied / "task.yaml").read_text()
    assert f'data_files: "{tmp_path}/elsewhere/x.jsonl" # here' in text
    assert 'include: "_outside/base.yaml.included"' in text
    assert (copied / "_outside" / "base.yaml.included").read_text() == "dataset_path: json\n"


def test_samples_are_sorted_and_never_empty(tmp_path):
    write_samples(tmp_path / "s.json", {"b": (3, 1), "a": (2,), "none": ()})
    assert json.loads((tmp_path / "s.json").read_text()) == {"a": [2], "b": [1, 3]}


def test_commands_repeat_the_studys_settings(task_folder, tmp_path):
    copied = copy_tasks(task_folder, tmp_path / "tasks")
    settings = Settings(
        copied, allow_code_eval=True, apply_chat_template=True, system_instruction="be brief"
    )
    specs = (
        TaskSpec("choice", "acc"),
        TaskSpec("choice", "acc_norm"),
        TaskSpec("rolling"),
        TaskSpec("generate", "exact_match,word", num_fewshot=2, gen_kwargs={"until": ["x"]}),
    )
    task_set = load_tasks(specs, settings)
    plain, shots = reproduce_commands(
        task_set, tmp_path / "model", copied, tmp_path / "s.json", tmp_path / "out", 4
    )
    assert plain[plain.index("--tasks") + 1] == "choice,rolling"
    assert plain[plain.index("--samples") + 1] == str(tmp_path / "s.json")
    assert plain[plain.index("--seed") + 1] == "0,1234,1234,1234"
    assert "--samples" not in shots
    assert shots[shots.index("--num_fewshot") + 1] == "2"
    assert shots[shots.index("--gen_kwargs") + 1] == "until=['x']"
    for command in (plain, shots):
        assert command[command.index("--system_instruction") + 1] == "be brief"
        assert "--apply_chat_template" in command
        assert command[:3] == ["env", "HF_ALLOW_CODE_EVAL=1", "lm_eval"]
        assert "--confirm_run_unsafe_code" in command


@pytest.mark.slow
def test_the_lm_eval_command_gives_our_test_numbers_item_by_item(task_folder, tmp_path):
    copied = copy_tasks(task_folder, tmp_path / "tasks")
    gen_kwargs = {"max_gen_toks": 6, "until": ["w9", "."]}
    specs = (
        TaskSpec("both", "acc_norm"),
        TaskSpec("choice", "acc"),
        TaskSpec("word", "perplexity"),
        TaskSpec("generate", "exact_match,word", num_fewshot=1, gen_kwargs=gen_kwargs),
    )
    task_set = load_tasks(specs, Settings(copied))
    plan = SplitPlan(fractions={"search": 0.5, "select": 0.0, "test": 0.5}, salt="a")
    items = split_documents(task_set.documents(), task_set.members, plan).items("test")
    model, tokenizer = make_model(), make_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_samples(tmp_path / "test_samples.json", items)
    commands = reproduce_commands(
        task_set,
        tmp_path / "model",
        copied,
        tmp_path / "test_samples.json",
        tmp_path / "out",
        4,
    )
    logged, results = {}, {}
    for command in commands:
        environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", *command, "--device", "cpu"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    for path in (tmp_path / "out").glob("**/samples_*.jsonl"):
        task = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
        for line in path.read_text().splitlines():
            row = json.loads(line)
            logged[task, row["filter"], row["doc_id"]] = row
    for path in (tmp_path / "out").glob("**/results_*.json"):
        results |= json.loads(path.read_text())["results"]

    scorer = LmEvalScorer(model, tokenizer, task_set, batch_size=4)
    answers = scorer.answer(items)
    scores = scorer.judge(items, answers)[0]
    for objective in task_set.objectives:
        got = scores[objective.name]
        for (task, doc_id), value in zip(got.items, got.values, strict=True):
            row = logged[task, objective.filter, doc_id]
            assert value == pytest.approx(row[objective.metric], abs=1e-4)
            for ours, theirs in zip(answers.by_item[task, doc_id], row["resps"], strict=True):
                if isinstance(ours, str):
                    assert ours == theirs[0]
                else:
                    assert ours.logprob == pytest.approx(float(theirs[0][0]), abs=1e-4)
        if objective.task in ("choice", "word"):
            value = estimate(got, objective.aggregation).value
            key = f"{objective.metric},{objective.filter}"
            assert value == pytest.approx(results[objective.task][key], rel=1e-5)
