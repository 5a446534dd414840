"""Programs that models write are judged in place of lm-eval's `code_eval`, in its form."""

from __future__ import annotations

import importlib.util
import sys
from itertools import combinations
from pathlib import Path

import lm_eval
import pytest

from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.answers import Answers
from automerge.evaluation.lm_eval.cage import launch
from automerge.evaluation.lm_eval.cage.launch import caging_fault
from automerge.evaluation.lm_eval.code_eval import CodeEval, pass_at, replaced
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from tests.evaluation.toys import make_model, make_tokenizer, refusals


@pytest.mark.parametrize(("total", "correct"), [(5, 0), (5, 2), (5, 5), (3, 1)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(k, total, correct):
    draws = list(combinations(range(total), k))
    right = sum(min(draw) < correct for draw in draws)
    assert pass_at(k, total, correct) == pytest.approx(right / len(draws))


def test_results_have_the_form_of_the_metric_they_stand_for():
    rates, results = CodeEval().compute(
        references=["assert f(2) == 4", "assert f(2) == 5"],
        predictions=[["def f(x): return x * x", "def f(x): return x"], ["f = None", "f = len"]],
        k=[1, 2, 10],
    )
    assert rates == {"pass@1": 0.25, "pass@2": 0.5}
    assert results[0][0] == (0, {"task_id": 0, "passed": True, "completion_id": 0})


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_lm_evals_own_tasks_are_judged_by_it(name):
    path = Path(lm_eval.__file__).parent / "tasks" / name / "utils.py"
    spec = importlib.util.spec_from_file_location(f"caged_{name}", path)
    module = importlib.util.module_from_spec(spec)
    with replaced():
        spec.loader.exec_module(module)
    test, right, wrong = "assert add(2, 3) == 5", "def add(a, b): return a + b", "add = max"
    if name == "mbpp":
        assert [module.pass_at_1(test, [code]) for code in (right, wrong)] == [1.0, 0.0]
    else:
        found = [module.pass_at_k([test], [[code]], k=[1]) for code in (right, wrong)]
        assert found == [{"pass@1": 1.0}, {"pass@1": 0.0}]


def test_the_library_is_imported_only_for_more_than_that(monkeypatch):
    monkeypatch.delitem(sys.modules, "evaluate", raising=False)
    with replaced():
        import evaluate

        assert isinstance(evaluate.load("code_eval"), CodeEval)
        assert sys.modules["evaluate"] is evaluate, "nothing else was imported"
        assert evaluate.__version__
        assert sys.modules["evaluate"] is not evaluate
    import evaluate as real

    assert isinstance(evaluate.load("code_eval"), CodeEval)
    assert "evaluate/__init__.py" in str(real.__file__)


@pytest.fixture
def programs(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "judge.py").write_text(
        "import evaluate\n"
        "code = evaluate.load('code_eval')\n"
        "def passes(references, predictions):\n"
        "    return code.compute(references=references, predictions=[predictions], k=[1])[0]"
        "['pass@1']\n"
    )
    rows = "\n".join(f'{{"n": "w{n}", "test": "assert f() == {n}"}}' for n in range(12))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "programs.yaml").write_text(
        "task: programs\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: '{folder / 'rows.jsonl'}'}}}}\n"
        "test_split: test\noutput_type: generate_until\nunsafe_code: true\n"
        "doc_to_text: '{{n}}'\ndoc_to_target: '{{test}}'\n"
        "generation_kwargs: {until: ['\\n\\n'], max_gen_toks: 4, do_sample: false}\n"
        "metric_list:\n  - metric: !function judge.passes\n    aggregation: mean\n"
        "    higher_is_better: true\n"
    )
    return folder


def test_a_task_of_programs_is_refused_until_it_is_allowed(programs):
    (refused,) = refusals([TaskSpec("programs")], Settings(programs, allow_task_code=True))
    assert "runs code that the model wrote; allow_code_eval" in refused.message
    (programs / "judge.py").write_text("def passes(*a): return exec('1')\n")
    settings = Settings(programs, allow_task_code=True, allow_code_eval=True)
    (otherwise,) = refusals([TaskSpec("programs")], settings)
    assert "but not through lm-eval's code_eval, which automerge" in otherwise.message


def test_a_machine_without_a_cage_refuses_such_a_task_before_anything_is_scored(
    programs, monkeypatch
):
    said = "import os; os.write(1, b'unsupported: no Landlock') # {paths} {home}"
    monkeypatch.setattr(launch, "BEGIN", said)
    caging_fault.cache_clear()
    settings = Settings(programs, allow_task_code=True, allow_code_eval=True)
    (refused,) = refusals([TaskSpec("programs")], settings)
    caging_fault.cache_clear()
    assert "cannot be locked in here: no Landlock" in refused.message
    assert "leave the task out" in refused.message


def test_a_task_of_programs_is_scored(programs):
    settings = Settings(programs, allow_task_code=True, allow_code_eval=True)
    task_set = load_tasks([TaskSpec("programs")], settings)
    scorer = LmEvalScorer(make_model(), make_tokenizer(), task_set, batch_size=4)
    items = {"programs": tuple(range(4))}
    written = {n: f"def f(): return {n if n % 2 else 'input()'}" for n in range(4)}
    answers = Answers({("programs", n): (text,) for n, text in written.items()}, 0)
    (scores,) = scorer.judge(items, answers)[0].values()
    assert scores.values == (0.0, 1.0, 0.0, 1.0)
    assert set(scorer.score(items).scores["programs"].values) == {0.0}
