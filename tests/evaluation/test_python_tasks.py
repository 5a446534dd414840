"""Tasks that a user's function scores: the law of its scores, and what is refused by name."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from automerge.evaluation.base import Entry, Live, Settings, TasksRefused
from automerge.evaluation.guards import InvalidOutput, MetricError
from automerge.evaluation.panel import Panel
from automerge.evaluation.python.items import BrokenItems, read_items
from automerge.evaluation.split import SplitPlan, split_documents
from automerge.extensions import load_extensions, modules
from tests.evaluation.toys import make_model, make_tokenizer, phrase

SOURCE = """
import math, random
import numpy, torch


def first_logit(model, tokenizer, items):
    ids = [tokenizer(item["text"], return_tensors="pt").input_ids for item in items]
    return [model(input_ids=i).logits[0, -1, 0] for i in ids]


def lengths(model, tokenizer, items):
    return [len(item.pop("text")) for item in items]


def chance(model, tokenizer, items):
    return [random.random() + numpy.random.rand() + torch.rand(()).item() for _ in items]


def nan(model, tokenizer, items):
    return [math.nan] * len(items)


def short(model, tokenizer, items):
    return [1.0] * (len(items) - 1)


def words(model, tokenizer, items):
    return ["1.0"] * len(items)


def one(model, tokenizer, items):
    return 1.0


def raises(model, tokenizer, items):
    return [items[0]["nothing"]]


def spoils(model, tokenizer, items):
    next(model.parameters()).add_(1.0)
    return [0.0] * len(items)


def trains(model, tokenizer, items):
    model.train()
    return [0.0] * len(items)


CONSTANT = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "my_scores.py").write_text(SOURCE)
    rng = random.Random(5)
    rows = [{"text": phrase(rng, 3, 8)} for _ in range(60)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load_extensions(["my_scores"], tmp_path)
    yield tmp_path
    for name in tuple(modules._installed):
        modules._remove(name)


def opened(folder: Path, *functions: str, items: str = "items.jsonl"):
    entries = tuple(
        Entry("python", f"my_scores:{name}", name, options={"items": str(folder / items)})
        for name in functions
    )
    return Panel(entries, Settings()).open(folder / "run", keep=True)


def live(model=None) -> Live:
    return Live(model or make_model(), make_tokenizer(), lambda: math.nan, nullcontext)


def test_scores_are_the_functions_in_the_order_of_the_items_asked_for(folder: Path) -> None:
    tasks = opened(folder, "lengths", "first_logit")
    texts = [row["text"] for row in read_items(folder / "items.jsonl")]
    scorer = tasks.attach(live())
    ids = (7, 3, 59)
    for _ in range(2):  # what a function does to its items is not kept
        scores = scorer.score({"lengths": ids, "first_logit": ()}).scores
        assert scores["lengths"].items == tuple(("lengths", i) for i in ids)
        assert scores["lengths"].values == tuple(float(len(texts[i])) for i in ids)
        assert scores["first_logit"].values == ()


def test_scores_are_of_the_weights_at_the_call(folder: Path) -> None:
    model = make_model()
    scorer = opened(folder, "first_logit").attach(live(model))
    before = scorer.score({"first_logit": (0, 1)}).scores
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    after = scorer.score({"first_logit": (0, 1)}).scores
    fresh = make_model()
    fresh.load_state_dict(model.state_dict())
    expected = opened(folder, "first_logit").attach(live(fresh)).score({"first_logit": (0, 1)})
    assert after == expected.scores
    assert after != before


def test_random_generators_are_seeded_for_a_function_and_given_back(folder: Path) -> None:
    scorer = opened(folder, "chance").attach(live())
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = scorer.score({"chance": (0, 1)}).scores
    assert scorer.score({"chance": (0, 1)}).scores == first
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == states


@pytest.mark.parametrize(
    ("function", "kind", "expected"),
    [
        ("nan", InvalidOutput, "my_scores:nan returned nan for item 4"),
        ("short", MetricError, "my_scores:short returned 1 scores for 2 items"),
        ("words", MetricError, "my_scores:words returned '1.0' for item 4; expected a number"),
        ("one", MetricError, "my_scores:one returned float; expected a list of 2 numbers"),
        ("raises", MetricError, r"raised KeyError: 'nothing' \(my_scores.py:36\)"),
        ("spoils", MetricError, "my_scores:spoils changed the model's weights"),
    ],
)
def test_what_a_function_does_wrong_is_said_with_its_name(
    folder: Path, function: str, kind: type[Exception], expected: str
) -> None:
    scorer = opened(folder, function).attach(live())
    with pytest.raises(kind, match=expected):
        scorer.score({function: (4, 5)})


def test_nothing_is_scored_once_a_function_wrote_into_the_weights(folder: Path) -> None:
    scorer = opened(folder, "lengths", "spoils").attach(live())
    assert scorer.score({"lengths": (1,)}).scores["lengths"].values
    for asked in ({"spoils": (1,)}, {"lengths": (1,)}):
        with pytest.raises(MetricError, match="spoils changed the model's weights"):
            scorer.score(asked)


def test_a_model_leaves_a_function_in_the_mode_it_came_in(folder: Path) -> None:
    model = make_model()
    opened(folder, "trains").attach(live(model)).score({"trains": (0,)})
    assert not model.training


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("my_scores:nothing", "my_scores has no 'nothing'"),
        ("my_scores:CONSTANT", "is not a function of .* but int"),
        ("os:getcwd", "the module 'os' is not loaded; list it under `extensions:`"),
        ("my_scores", "expected MODULE:FUNCTION, got 'my_scores'"),
    ],
)
def test_functions_and_items_are_refused_together_each_at_its_entry(
    folder: Path, task: str, expected: str
) -> None:
    entries = (
        Entry("python", "my_scores:nan", "good", options={"items": str(folder / "items.jsonl")}),
        Entry("python", task, "bad", options={"items": str(folder / "gone.jsonl")}),
    )
    with pytest.raises(TasksRefused, match=expected) as error:
        Panel(entries, Settings()).open(folder / "run", keep=True)
    assert [(f.spec, f.field) for f in error.value.task_faults] == [(1, "task"), (1, "items")]
    assert "no such file" in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds no items"),
        (b"\n \n", "holds no items"),
        (b'{"a": 1}\n[1]\n', "line 2 is not a JSON object but list"),
        (b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        (b'{"a": NaN}\n', "line 1 is not JSON: NaN is not a JSON number"),
        (b"[" * 100_000, "line 1 is not JSON: nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8 text .byte 7."),
        (b"x\n" * 30, "and 20 more lines"),
    ],
)
def test_a_broken_file_of_items_is_said_by_its_lines(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    (tmp_path / "items.jsonl").write_bytes(content)
    with pytest.raises(BrokenItems, match=expected):
        read_items(tmp_path / "items.jsonl")


def test_items_may_hold_other_ends_of_lines_and_begin_with_a_mark(tmp_path: Path) -> None:
    text = '\ufeff{"a": "x\u2028y"}\r\n\r\n{"a": 2}'
    (tmp_path / "items.jsonl").write_bytes(text.encode())
    assert read_items(tmp_path / "items.jsonl") == [{"a": "x\u2028y"}, {"a": 2}]


def test_the_copies_alone_open_the_same_tasks(folder: Path) -> None:
    first = opened(folder, "lengths")
    assert (folder / "run/items/my_scores.py").read_text() == SOURCE
    (folder / "items.jsonl").unlink()
    again = opened(folder, "lengths")
    assert again.documents() == first.documents()
    assert again.digests() == first.digests()


def test_near_duplicates_stay_together_across_tasks(folder: Path) -> None:
    tasks = opened(folder, "lengths", "chance")
    split = split_documents(tasks.documents(), tasks.members, SplitPlan(), tasks.parts)
    for items in split.parts.values():
        assert items["lengths"] == items["chance"]


def test_two_evaluators_cannot_have_a_task_of_one_name(folder: Path, task_folder: Path) -> None:
    entries = (
        Entry("lm_eval", "choice", "first"),
        Entry("python", "my_scores:nan", "choice", options={"items": str(folder / "items.jsonl")}),
    )
    with pytest.raises(TasksRefused, match="two evaluators have a task named 'choice'"):
        Panel(entries, Settings(include_path=task_folder)).open(folder / "run", keep=True)
