"""A whole search with a Python task beside one of lm-eval: faults, resume, export, score."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest

import automerge
from automerge.errors import FaultyInput
from automerge.extensions import modules
from automerge.report.commands import score_commands
from automerge.store.store import Store
from automerge.trial import PARTS, Measured
from tests.command_line import automerge as run_command
from tests.evaluation.toys import WORDS, phrase
from tests.zoo import write_zoo

pytestmark = pytest.mark.slow

SOURCE = """
def confidence(model, tokenizer, items):
    scores = []
    for item in items:
        ids = tokenizer(item["text"] + " " + item["answer"], return_tensors="pt").input_ids
        logits = model(input_ids=ids).logits.float()
        scores.append(logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item())
    return scores
"""
NAMED = ("--extension", "./items/my_scores.py")
TASK = '{python: "my_scores:confidence", name: judge, items: ./items.jsonl}'


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    config = write_zoo(folder)
    text = config.read_text().replace("{task: say, metric: exact_match}", TASK)
    text = text.replace("budget: 9", "budget: 7\nextensions: [my_scores]")
    config.write_text(text)
    rng = random.Random(2)
    rows = [{"text": phrase(rng, 3, 8), "answer": rng.choice(WORDS)} for _ in range(80)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_scores.py").write_text(SOURCE)
    return folder


@pytest.fixture(scope="module")
def finished(zoo: Path) -> Path:
    done = run_command(zoo, "search")
    assert done.returncode == 0, done.stderr
    return zoo / "runs" / "tiny"


def outcomes(run: Path) -> dict[str, object]:
    with Store(run, write=False) as store:
        return {
            part: {n: o.scores for n, o in store.outcomes(part).items() if isinstance(o, Measured)}
            for part in PARTS
        }


def test_both_tasks_are_scored_and_an_export_scores_the_same(finished: Path) -> None:
    front = json.loads((finished / "front.json").read_text())
    assert all(set(member["scores"]) == {"choose", "judge"} for member in front["members"])
    with Store(finished, write=False) as store:
        (number,) = (t.number for t in store.trials() if t.name == "uniform")
        outcome = store.outcomes("test")[number]
    exported = run_command(finished, "export", ".", "--trial", str(number), *NAMED)
    assert exported.returncode == 0, exported.stderr
    (model,) = (f"models/{path.name}" for path in (finished / "models").glob("*uniform*"))
    lines = score_commands(automerge.load_study(finished).result, model).splitlines()
    (line,) = [line for line in lines if line.startswith("automerge score")]
    assert line in (finished / model / "README.md").read_text()
    done = run_command(finished, *shlex.split(line)[1:], "--json")
    assert done.returncode == 0, done.stderr
    theirs = {(row["task"], row["item"]): row["score"] for row in json.loads(done.stdout)}
    assert isinstance(outcome, Measured)
    ours = outcome.scores["judge"]
    assert theirs == dict(zip(ours.items, ours.values, strict=True))
    assert len(set(ours.values)) > 5


def test_a_study_goes_on_without_the_original_items(zoo: Path, finished: Path) -> None:
    before = outcomes(finished)
    (zoo / "items.jsonl").rename(zoo / "moved.jsonl")
    try:
        again = run_command(zoo, "search", "--budget", "8")
    finally:
        (zoo / "moved.jsonl").rename(zoo / "items.jsonl")
    assert again.returncode == 0, again.stderr
    after = outcomes(finished)
    assert len(after["search"]) == 8
    assert {n: after["search"][n] for n in before["search"]} == before["search"]


@pytest.mark.parametrize(
    ("old", "new", "code", "expected"),
    [
        ("extensions: [my_scores]", "", 3, "wrong.yaml:4:26: function 'my_scores:confidence'"),
        (":confidence", ":confident", 3, "my_scores has no 'confident'"),
        (", items: ./items.jsonl", "", 2, "a Python task needs `items: FILE`"),
        ("./items.jsonl", "./nothing.jsonl", 3, "no such file: .*nothing.jsonl"),
        ("name: judge", "name: judge, num_fewshot: 2", 2, "'num_fewshot' is for tasks of lm-eval"),
        ("name: judge", "task: x", 2, "give one of `task` and `python`"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(
    zoo: Path, tmp_path: Path, old: str, new: str, code: int, expected: str
) -> None:
    config = zoo / "wrong.yaml"
    text = (zoo / "automerge.yaml").read_text()
    assert old in text
    config.write_text(text.replace(old, new).replace("name: tiny", f"out: {tmp_path / 'out'}"))
    try:
        with pytest.raises(FaultyInput) as refused:
            automerge.search(config)
    finally:
        config.unlink()
        for name in tuple(modules._installed):
            modules._remove(name)
    assert refused.value.exit_code == code
    assert any(re.search(expected, str(fault)) for fault in refused.value.faults)
    assert not (tmp_path / "out").exists()
