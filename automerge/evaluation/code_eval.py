"""Judge programs that models wrote, without letting them do anything: lm-eval's `code_eval`."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from automerge.errors import PreflightError
from automerge.evaluation import cage

if TYPE_CHECKING:
    from lm_eval.api.task import Task

LIBRARY, NAME = "evaluate", "code_eval"
STARTING_S = 20.0
"""How long a process may take to come up and end, beside the program's own time."""
TRIED_S = 5.0
"""How long the program may take that a cage is tried with."""


class CodeEval:
    """What `evaluate.load("code_eval")` gives, with the same results (Chen et al. 2021).

    A program passes if it runs with its tests to the end, in time. Each runs in a process of its
    own that has no network, no files but its interpreter's, no environment and no other process
    (see `cage`). Raises PreflightError where the system cannot do that.
    """

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int = 4,
        timeout: float = 3.0,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """pass@k over tasks, and for each task its candidates with what became of them."""
        programs = [
            f"{candidate}\n{test}"
            for test, candidates in zip(references, predictions, strict=True)
            for candidate in candidates
        ]
        with ThreadPoolExecutor(max_workers=min(num_workers, os.cpu_count() or 1)) as pool:
            passed = list(pool.map(lambda program: runs(program, timeout), programs))
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        verdicts = iter(passed)
        for task, candidates in enumerate(predictions):
            results[task] = [
                (number, {"task_id": task, "passed": next(verdicts), "completion_id": number})
                for number in range(len(candidates))
            ]
        counts = [(len(own), sum(r["passed"] for _, r in own)) for own in results.values()]
        rates = {
            f"pass@{n}": float(np.mean([pass_at(n, total, correct) for total, correct in counts]))
            for n in k
            if all(total >= n for total, _ in counts)
        }
        return rates, results


def pass_at(k: int, total: int, correct: int) -> float:
    """The unbiased estimate that one of k programs passes (Chen et al. 2021, eq. 1)."""
    if total - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(total - correct + 1, total + 1)))


def runs(program: str, seconds: float) -> bool:
    """Whether a program runs to its end, in a cage.

    Raises PreflightError where there can be none.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="automerge-code-") as folder:
        asked = {"program": program, "token": token, "seconds": seconds, "folder": folder}
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(Path(cage.__file__))],
                input=json.dumps(asked),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
                cwd=folder,
                text=True,
                errors="replace",
                timeout=seconds + STARTING_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
    if done.returncode == cage.UNSUPPORTED and done.stdout:
        raise PreflightError(
            f"model-written code cannot be locked in here: {done.stdout}; use a Linux machine with "
            "Landlock and seccomp, or leave the task out"
        )
    return done.stdout == token


@cache
def caging_fault() -> str | None:
    """Why programs cannot be locked in on this machine; None where they can."""
    try:
        runs("pass", TRIED_S)
    except PreflightError as error:
        return str(error)
    return None


class _Evaluate(ModuleType):
    """Stands for the library `evaluate`, whose import takes seconds, until more of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real(), name)

    def load(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Load a metric: ours, or one of the library's."""
        return CodeEval() if path == NAME else self.real().load(path, *args, **kwargs)

    def real(self) -> ModuleType:
        """Import the library."""
        if sys.modules.get(LIBRARY) is self:
            del sys.modules[LIBRARY]
        return importlib.import_module(LIBRARY)


@contextmanager
def replaced() -> Iterator[None]:
    """Give tasks that are loaded inside our `code_eval`; nothing is fetched for it."""
    before = sys.modules.pop(LIBRARY, None)
    stub = sys.modules[LIBRARY] = _Evaluate(LIBRARY)
    try:
        yield
    finally:
        if sys.modules.get(LIBRARY) is stub:
            del sys.modules[LIBRARY]
        if before is not None:
            sys.modules[LIBRARY] = before


def runs_code_caged(task: Task) -> bool:
    """Whether all the model-written code that a task runs goes through our `code_eval`.

    What judges its answers has it among its globals, or is a metric of lm-eval's own.
    """
    own = task.config.process_results
    judges = [own] if callable(own) else [f for f in task._metric_fn_list.values() if callable(f)]
    plain = [getattr(judge, "__self__", judge) for judge in judges]
    ours = [judge for judge in plain if not str(judge.__module__).startswith("lm_eval.api.")]
    return bool(ours) and all(
        any(isinstance(value, CodeEval) for value in judge.__globals__.values()) for judge in ours
    )
