"""Commands that give a reported score again with lm_eval itself."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from automerge.report.files import write_atomically
from automerge.report.model import StudyResult, TrialResult

FILE = "test_items.json"


def test_items(result: StudyResult) -> dict[str, list[int]]:
    """Give the sealed test items measured, as leaf task → lm-eval doc ids, ascending."""
    found: dict[str, set[int]] = {}
    for trial in result.trials:
        for objective in result.objectives:
            scores = trial.scores("test", objective.name)
            for task, item in () if scores is None else scores.items:
                found.setdefault(task, set()).add(item)
    return {task: sorted(found[task]) for task in sorted(found)}


def write_test_items(result: StudyResult, folder: Path) -> Path:
    """Write `test_items.json`, which `lm_eval --samples` reads, into the run folder."""
    return write_atomically(folder / FILE, json.dumps(test_items(result)) + "\n")


def score_command(result: StudyResult, trial: TrialResult, model_dir: str | None = None) -> str:
    """Give the shell command, to run in the run folder, that scores a model on the test items."""
    tasks = ",".join(dict.fromkeys(o.task for o in result.objectives))
    model_args = f"pretrained={model_dir or trial.model_dir}"
    if (dtype := trial.trial.recipe.dtype) is not None:
        model_args += f",dtype={dtype}"
    words = ["lm_eval", "run", "--model", "hf", "--model_args", model_args, "--tasks", tasks]
    words += ["--samples", FILE, *result.provenance.lm_eval_args]
    return shlex.join(words)
