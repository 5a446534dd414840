from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from automerge.estimation import paired_difference
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.claims import (
    claim_warnings,
    confirmable_difference,
    items_to_confirm,
)
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.evaluation.split import SplitPlan, split_documents
from automerge.objective import ItemScores
from tests.evaluation.toys import write_tasks


@pytest.mark.parametrize(("points", "items"), [(1, 15_698), (2, 3_925), (3, 1_745), (5, 628)])
def test_confirming_a_difference_takes_known_numbers_of_items(points, items):
    # (1.95996 + 0.84162)^2 * 0.2 / d^2, worked by hand
    assert items_to_confirm(points / 100) == items
    assert confirmable_difference(items) <= points / 100 < confirmable_difference(items - 1)


def test_a_simulated_difference_of_that_size_is_found_four_times_of_five():
    n, rng = 400, np.random.default_rng(0)
    size = confirmable_difference(n)
    found = 0
    for _ in range(400):
        kind = rng.random(n)
        gained, lost = kind < (0.2 + size) / 2, kind > 1 - (0.2 - size) / 2
        b = np.where(gained, 0.0, np.where(lost, 1.0, rng.integers(0, 2, n)))
        a = np.where(gained, 1.0, np.where(lost, 0.0, b))
        items = tuple(("t", i) for i in range(n))
        scores = [ItemScores(items, tuple(map(float, values))) for values in (a, b)]
        found += paired_difference(scores[0], scores[1], "mean").low > 0
    assert math.isclose(found / 400, 0.8, abs_tol=0.06)


@pytest.fixture(scope="module")
def task_set(tmp_path_factory):
    source = write_tasks(tmp_path_factory.mktemp("many"), items=60, generated=60, texts=40)
    folder = copy_tasks(source, tmp_path_factory.mktemp("run") / "tasks")
    return load_tasks(
        [
            TaskSpec("choice"),
            TaskSpec("rolling"),
            TaskSpec("word", "perplexity"),
            TaskSpec("shots"),
        ],
        Settings(folder),
    )


def split_of(task_set):
    plan = SplitPlan({"search": 0.4, "select": 0.3, "test": 0.3})
    return split_documents(task_set.documents(), task_set.members, plan, task_set.parts)


def test_one_line_says_what_the_test_items_can_confirm(task_set):
    split = split_of(task_set)
    n = len(split.parts["test"]["choice"])
    line, shots = claim_warnings(task_set, split)
    assert f"{100 * confirmable_difference(n):.1f} points on choice ({n} items)" in line
    assert "5 points would take 628 items" in line
    assert "rolling" not in line
    assert "word" not in line
    assert "objective 'shots'" in shots
    enough = replace(
        split, parts={**split.parts, "test": {"choice": range(628), "shots": range(628)}}
    )
    alone = replace(task_set, objectives=(task_set.objectives[0],), members={"choice": ("choice",)})
    assert claim_warnings(alone, enough) == []


def test_a_well_known_benchmark_is_named(task_set):
    named = replace(task_set.objectives[0], task="gsm8k_cot")
    found = claim_warnings(replace(task_set, objectives=(named,)), split_of(task_set))
    assert "optimises for GSM8K" in found[0]
    assert "no longer measure general ability" in found[0]
