from __future__ import annotations

import random

import pytest

from automerge.evaluation.base import Settings
from automerge.evaluation.item_file import write_samples
from automerge.evaluation.lm_eval.samples import reproduce_commands
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.evaluation.split import SplitPlan, split_documents
from tests.evaluation.stock import stock
from tests.evaluation.toys import make_model, make_tokenizer, phrase, refusals, write_jsonl

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: data/train.jsonl, validation: data/validation.jsonl, test: data/test.jsonl}}
{splits}
output_type: multiple_choice
doc_to_text: 'Q : {{{{question}}}} A :'
doc_to_choice: choices
doc_to_target: answer
num_fewshot: {shots}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    source = tmp_path_factory.mktemp("tasks")
    (source / "data").mkdir()
    rng = random.Random(3)
    for split, n in (("train", 50), ("validation", 30), ("test", 40)):
        rows = [
            {
                "question": phrase(rng, 6, 12),
                "choices": [phrase(rng, 1, 3) for _ in range(3)],
                "answer": rng.randrange(3),
            }
            for _ in range(n)
        ]
        write_jsonl(source / "data" / f"{split}.jsonl", rows)
    every = "training_split: train\nvalidation_split: validation\ntest_split: test"
    tasks = {
        "full": (every, 0),
        "shots": (every, 2),
        "unscored_test": ("training_split: train\nvalidation_split: validation", 0),
        "only_test": ("test_split: test", 2),
        "first": ("test_split: test\nfewshot_split: test\nfewshot_config: {sampler: first_n}", 2),
    }
    for name, (splits, shots) in tasks.items():
        text = TASK.format(name=name, splits=splits, shots=shots)
        (source / f"{name}.yaml").write_text(text)
    (source / "pair.yaml").write_text("group: pair\ntask: [full, unscored_test]\n")
    return copy_tasks(source, tmp_path_factory.mktemp("run") / "tasks")


def cut(task_set):
    return split_documents(task_set.documents(), task_set.members, SplitPlan(), task_set.parts)


def test_each_part_comes_from_the_dataset_split_it_is_given(folder):
    spec = TaskSpec("full", split={"search": "train", "select": "validation", "test": "test"})
    task_set = load_tasks([spec], Settings(folder))
    assert task_set.members == {"full": ("full", "full@train", "full@validation")}
    assert task_set.scored("full") == ("full",)
    split = cut(task_set)
    assert split.items("search") == {
        "full": (), "full@train": tuple(range(50)), "full@validation": ()
    }  # fmt: skip
    assert split.items("select")["full@validation"] == tuple(range(30))
    assert split.items("test")["full"] == tuple(range(40))
    digests = task_set.digests()
    assert len(set(digests.values())) == 3


def test_parts_that_are_not_named_share_what_lm_eval_scores(folder):
    task_set = load_tasks([TaskSpec("unscored_test", split={"search": "train"})], Settings(folder))
    assert task_set.parts == {
        "unscored_test": ("select", "test"), "unscored_test@train": ("search",)
    }  # fmt: skip
    items = cut(task_set)
    selected, tested = items.items("select")["unscored_test"], items.items("test")["unscored_test"]
    assert sorted(selected + tested) == list(range(30))


def test_groups_take_their_leaves_splits(folder):
    specs = (
        TaskSpec("pair", split={"search": "train"}),
        TaskSpec("full", split={"search": "train"}),
    )
    task_set = load_tasks(specs, Settings(folder))
    assert task_set.members["pair"] == (
        "full", "full@train", "unscored_test", "unscored_test@train"
    )  # fmt: skip
    assert task_set.scored("pair") == ("full", "unscored_test")


def test_wrong_splits_are_refused_with_those_there_are(folder):
    specs = (
        TaskSpec("full", split={"search": "trian"}),
        TaskSpec("unscored_test", split={"test": "test"}),
    )
    found = refusals(specs, Settings(folder))
    assert [(fault.spec, fault.field) for fault in found] == [(0, "split"), (1, "split")]
    assert "did you mean 'train'" in found[0].message
    assert "test, train, validation" in found[0].message
    assert "write test: validation, or leave test out" in found[1].message
    specs = (TaskSpec("full"), TaskSpec("full", name="again", split={"search": "train"}))
    (conflict,) = refusals(specs, Settings(folder))
    assert conflict.field == "split"


def test_prompts_of_the_test_part_stay_lm_evals_own(folder):
    def prompts(**split):
        task_set = load_tasks([TaskSpec("shots", split=split)], Settings(folder))
        scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set)
        return task_set, scorer, {
            item: instances[0].args[0] for item, instances in scorer._instances.items()
        }  # fmt: skip

    task_set, scorer, own = prompts(search="train", select="validation")
    _, _, plain = prompts()
    assert plain.items() <= own.items()
    assert len(own) == 50 + 30 + 40
    for task in ("shots@train", "shots@validation"):
        for doc_id, document in enumerate(task_set.documents()[task]):
            prompt = own[task, doc_id]
            assert prompt.count("Q :") == 3
            assert prompt.count(f"Q : {document['question']} A :") == 1
    items = cut(task_set)
    assert len(scorer.score(items.items("search")).scores["shots"].values) == 50


def test_stock_lm_eval_gives_our_scores_of_the_test_part(folder):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    spec = TaskSpec("shots", split={"search": "train", "select": "validation"})
    task_set = load_tasks([spec], Settings(folder))
    model, tokenizer = make_model(), make_tokenizer()
    ours = (
        LmEvalScorer(model, tokenizer, task_set).score(cut(task_set).items("test")).scores["shots"]
    )
    with stock(folder):
        theirs = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, softmax_dtype="float32"),
            tasks=["shots"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )["samples"]["shots"]
    expected = {("shots", row["doc_id"]): row["acc"] for row in theirs}
    assert dict(zip(ours.items, ours.values, strict=True)) == expected
    assert 0 < sum(ours.values) < len(ours.values) == 40


def test_the_command_and_the_samples_hold_what_lm_eval_knows(folder, tmp_path):
    specs = (
        TaskSpec("full", split={"search": "train"}),
        TaskSpec("shots", split={"search": "train"}),
    )
    task_set = load_tasks(specs, Settings(folder))
    write_samples(tmp_path / "s.json", cut(task_set).items("test"))
    text = (tmp_path / "s.json").read_text()
    assert "@" not in text
    commands = reproduce_commands(task_set, tmp_path, folder, tmp_path / "s.json", tmp_path, 4)
    assert [command[command.index("--tasks") + 1] for command in commands] == ["full", "shots"]


def test_a_large_dataset_split_is_thinned(folder, monkeypatch):
    monkeypatch.setattr("automerge.evaluation.lm_eval.dataset_splits.MAX_DOCUMENTS", 20)
    task_set = load_tasks([TaskSpec("full", split={"search": "train"})], Settings(folder))
    assert len(task_set.documents()["full@train"]) == 17
    assert len(task_set.documents()["full"]) == 40


@pytest.mark.parametrize(
    ("task", "shown"),
    [("full", None), ("shots", None), ("only_test", True), ("first", False)],
)
def test_examples_taken_from_scored_items_are_said(folder, task, shown):
    from automerge.evaluation.lm_eval.fewshot import fewshot_warnings

    task_set = load_tasks([TaskSpec(task)], Settings(folder))
    found = fewshot_warnings(task_set)
    if shown is None:
        assert found == []
        return
    (line,) = found
    # What lm-eval itself does, read off its prompts.
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set)
    own = sum(
        scorer._instances[task, i][0].args[0].count(f"Q : {document['question']} A :") > 1
        for i, document in enumerate(task_set.documents()[task])
    )
    assert (own > 0) is shown
    assert (f"{own} of them for themselves" in line) is shown
    assert ("40 of 40" if task == "only_test" else "3 of 40") in line
    assert "give the task a fewshot_split" in line
