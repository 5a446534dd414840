"""The laws over every entry of EVALUATORS and over a user's evaluator; what breaks them."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from automerge.errors import PreflightError
from automerge.evaluation.base import Entry, EvaluatorFactory, Settings
from automerge.evaluation.guards import InvalidOutput, MetricError
from automerge.evaluation.panel import Panel
from automerge.evaluation.table import DIVERGENCE, EVALUATORS, LM_EVAL, PROPERTIES, PYTHON
from automerge.extensions import attribute, load_extensions, modules
from automerge.objective import KL_TO_BASE
from automerge.objective import PROPERTIES as NAMES
from automerge.testing import EvaluatorLaws
from automerge.testing.live import tiny_live
from automerge.trial import Items
from tests.evaluation.toys import phrase

PAGE = (Path(__file__).parents[2] / "docs" / "evaluators.md").read_text(encoding="utf-8")
SHOWN = re.search(r"```python\n(\"\"\"The mean log.*?)```", PAGE, re.DOTALL)
FUNCTION = """
def confidence(model, tokenizer, items):
    scores = []
    for item in items:
        ids = tokenizer(item["text"], return_tensors="pt").input_ids
        logits = model(input_ids=ids).logits
        scores.append(logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).mean().item())
    return scores
"""


@dataclass(frozen=True)
class Case:
    """What an evaluator is tried with: entries, settings, and the files that they name."""

    entries: Sequence[Entry]
    settings: Settings = field(default_factory=Settings)
    originals: Sequence[Path] = ()


def lm_eval_case(folder: Path, task_folder: Path) -> Case:
    own = folder / "tasks"
    shutil.copytree(task_folder, own)
    asked: Mapping[str, Mapping[str, object]] = {
        "choice": {"metric": "acc_norm"},
        "both": {},
        "word": {"metric": "perplexity"},
        "rolling": {"metric": "bits_per_byte"},
        "generate": {"metric": "exact_match,word"},
    }
    entries = [Entry(LM_EVAL, name, name, options=options) for name, options in asked.items()]
    entries[0] = replace(entries[0], name="renamed", direction="minimize", goal=False)
    return Case(entries, Settings(own), [own])


def python_case(folder: Path, task_folder: Path) -> Case:
    del task_folder
    (folder / "my_scores.py").write_text(FUNCTION)
    load_extensions(["my_scores"], folder)
    rng = random.Random(0)
    items = folder / "items.jsonl"
    rows = [json.dumps({"text": phrase(rng, 3, 8)}) for _ in range(20)]
    items.write_text("\n".join(rows))
    entry = Entry(PYTHON, "my_scores:confidence", "mine", options={"items": str(items)})
    return Case([entry, replace(entry, name="again")], originals=[items, folder / "my_scores.py"])


def property_case(folder: Path, task_folder: Path) -> Case:
    del folder, task_folder
    return Case([Entry(PROPERTIES, name, name) for name in NAMES])


def divergence_case(folder: Path, task_folder: Path) -> Case:
    own = folder / "tasks"
    shutil.copytree(task_folder, own)
    text = folder / "text.txt"
    rng = random.Random(0)
    text.write_text("\n".join(phrase(rng, 10, 40) for _ in range(60)))
    tasks = tuple(Entry(LM_EVAL, name, name, options={}) for name in ("choice", "generate"))
    entries = [
        Entry(DIVERGENCE, KL_TO_BASE, KL_TO_BASE, options={"text": str(text)}),
        Entry(DIVERGENCE, KL_TO_BASE, "prompts", "minimize", False, {"tasks": tasks}),
    ]
    return Case(entries, Settings(own), [own, text])


CASES: Mapping[str, Callable[[Path, Path], Case]] = {
    LM_EVAL: lm_eval_case,
    PYTHON: python_case,
    PROPERTIES: property_case,
    DIVERGENCE: divergence_case,
}
"""What each entry of EVALUATORS is tried with; an entry that is not here fails the suite."""


@pytest.fixture(autouse=True)
def nothing_installed() -> Iterator[None]:
    yield
    for name in tuple(modules._installed):
        modules._remove(name)


class TestEvaluators(EvaluatorLaws):
    @pytest.fixture(params=tuple(EVALUATORS))
    def named(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def case(self, named: str, tmp_path: Path, task_folder: Path) -> Case:
        return CASES[named](tmp_path, task_folder)

    @pytest.fixture
    def make(self, named: str) -> EvaluatorFactory:
        return EVALUATORS[named]

    @pytest.fixture
    def entries(self, case: Case) -> Sequence[Entry]:
        return case.entries

    @pytest.fixture
    def settings(self, case: Case) -> Settings:
        return case.settings

    @pytest.fixture
    def originals(self, case: Case) -> Sequence[Path]:
        return case.originals


def lines_case(folder: Path, source: str | None = None) -> Case:
    """The evaluator that the documentation shows, or what became of it."""
    assert SHOWN is not None
    (folder / "my_lines.py").write_text(source or SHOWN[1])
    load_extensions(["my_lines"], folder)
    rng = random.Random(0)
    text = folder / "text.txt"
    text.write_text("\n".join(phrase(rng, 3, 8) for _ in range(20)))
    entry = Entry("my_lines:Lines", "lines", "lines", options={"items": str(text)})
    return Case([entry], originals=[text])


class TestShown(EvaluatorLaws):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        return lines_case(tmp_path)

    @pytest.fixture
    def entries(self, case: Case) -> Sequence[Entry]:
        return case.entries

    @pytest.fixture
    def make(self, case: Case) -> EvaluatorFactory:
        return EVALUATORS[case.entries[0].evaluator]

    @pytest.fixture
    def originals(self, case: Case) -> Sequence[Path]:
        return case.originals


def broken(folder: Path, old: str, new: str) -> tuple[EvaluatorFactory, Case]:
    """The documentation's evaluator with one line changed."""
    assert SHOWN is not None
    assert SHOWN[1].count(old) == 1
    case = lines_case(folder, SHOWN[1].replace(old, new))
    return cast(EvaluatorFactory, attribute("my_lines:Lines")), case


@pytest.mark.parametrize(
    ("old", "new", "law"),
    [
        (  # scores of the first weights
            "scores = [self.logprob(lines[i]) for i in ids]",
            "scores = [self.__dict__.setdefault(i, self.logprob(lines[i])) for i in ids]",
            "test_scores_are_those_of_the_weights_at_the_call",
        ),
        (  # scores in the documents' order
            "scores = [self.logprob(lines[i]) for i in ids]",
            "scores = [self.logprob(lines[i]) for i in sorted(ids)]",
            "test_a_score_belongs_to_its_item_whatever_else_is_asked_for",
        ),
        (  # items in the documents' order
            "for name, lines in self.lines.items():\n            ids = items.get(name, ())",
            "for name, lines in self.lines.items():\n            ids = sorted(items.get(name, ()))",
            "test_every_item_asked_for_has_a_score_in_order",
        ),
        (  # a score that depends on its neighbours
            "scores = [self.logprob(lines[i]) for i in ids]",
            "scores = [self.logprob(lines[i]) / len(ids) for i in ids]",
            "test_a_score_belongs_to_its_item_whatever_else_is_asked_for",
        ),
        (  # chance
            "scores = [self.logprob(lines[i]) for i in ids]",
            "scores = [self.logprob(lines[i]) + float(torch.rand(())) for i in ids]",
            "test_the_same_weights_and_items_have_the_same_scores_whatever_generators_do",
        ),
        (  # a model left in training mode
            "scores = [self.logprob(lines[i]) for i in ids]",
            "scores = [self.logprob(lines[i]) for i in ids] if self.model.train() else []",
            "test_the_model_and_the_generators_are_left_as_they_were",
        ),
        (  # margins that say otherwise than the scores
            "return Scored(found)",
            "return Scored(found, margins=found)",
            "test_margins_are_finite_of_items_with_a_score_and_agree_with_it",
        ),
        (  # all items, whatever is asked for
            "ids = items.get(name, ())",
            "ids = range(len(lines))",
            "test_where_no_item_is_asked_for_there_is_no_score",
        ),
    ],
)
def test_the_laws_fail_what_breaks_them(tmp_path: Path, old: str, new: str, law: str) -> None:
    make, case = broken(tmp_path, old, new)
    run = tmp_path / "run"
    run.mkdir()
    evaluator = make(case.entries, case.settings)
    evaluator.keep(run)
    with pytest.raises(AssertionError):
        getattr(EvaluatorLaws(), law)(evaluator.open(run), tiny_live())


ITEMS: Items = {"lines": (3, 0, 7)}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("self.entries = entries", "self.entries = entry", "NameError: .*'entry'.* (my_lines.py:1"),
        ("copy.write_bytes(Path", "copy.write_bytes(path", "NameError: .*'path'.* (my_lines.py:"),
        ("return OpenLines(", "return None or Openlines(", "NameError: .*'Openlines'"),
        ("Objective(e.name, e", "Objective('x', e", r"objectives \['x'\] instead of \['lines'\]"),
        ("        return self.lines", "        return {}", "documents of other leaf tasks"),
        ("for name, text in texts.items()}", "for name, text in []}", "digests of other leaf"),
    ],
)
def test_an_outside_evaluator_that_cannot_be_opened_says_so_in_one_sentence(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    _, case = broken(tmp_path, old, new)
    run = tmp_path / "run"
    run.mkdir()
    expected = expected.replace("(my", r"\(my")
    with pytest.raises(PreflightError, match=f"^evaluator 'my_lines:Lines' .*{expected}"):
        Panel(tuple(case.entries), case.settings).open(run, keep=True)


@pytest.mark.parametrize(
    ("old", "new", "kind", "expected"),
    [
        ("own.mean().item()", "own.mean().itme()", MetricError, r"AttributeError: .*\(my_lines.py"),
        ("tuple(scores)", "tuple(scores[1:])", MetricError, "ValueError: items, values"),
        (
            "own.mean().item()",
            "own.mean().item() * float('nan')",
            InvalidOutput,
            "returned nan for an",
        ),
        (
            "ids = items.get(name, ())",
            "ids = sorted(items.get(name, ()))",
            MetricError,
            "asked for 3 items of 'lines' and returned 3, or in another order",
        ),
        ("return Scored(found)", "return Scored({})", MetricError, "returned none"),
        (
            "return Scored(found)",
            "return Scored(found, margins={'lines': ItemScores((('lines', 0),), (1e999,))})",
            InvalidOutput,
            "returned margin inf for an",
        ),
        (
            "return Scored(found)",
            "return Scored(found, margins={'lines': ItemScores((('lines', 1),), (0.5,))})",
            MetricError,
            "that have no score",
        ),
    ],
)
def test_what_an_outside_scorer_returns_is_checked(
    tmp_path: Path, old: str, new: str, kind: type[Exception], expected: str
) -> None:
    _, case = broken(tmp_path, old, new)
    run = tmp_path / "run"
    run.mkdir()
    scorer = Panel(tuple(case.entries), case.settings).open(run, keep=True).attach(tiny_live())
    with pytest.raises(kind, match=f"^evaluator 'my_lines:Lines' .*{expected}"):
        scorer.score(ITEMS)
