"""Judge programs that models wrote, without letting them do any harm: lm-eval's `code_eval`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from automerge.evaluation.lm_eval.cage.launch import passes
from automerge.machine.processors import usable_cpus

if TYPE_CHECKING:
    from lm_eval.api.task import Task

LIBRARY, NAME = "evaluate", "code_eval"


class CodeEval:
    """What `evaluate.load("code_eval")` returns, with the same results (Chen et al. 2021).

    A program passes if it and then its tests run to their end in time. It runs in its own process
    without network, environment, other processes, or files except its interpreter's; its tests run
    in another, which it cannot reach (see `cage`).

    Raises:
        PreflightError: the system cannot do that.
    """

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        num_workers: int = 4,
        timeout: float = 3.0,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Return pass@k over tasks, and per task its candidates with what became of them."""
        asked = [
            (candidate, test, timeout)
            for test, candidates in zip(references, predictions, strict=True)
            for candidate in candidates
        ]
        with ThreadPoolExecutor(max_workers=min(num_workers, usable_cpus())) as pool:
            passed = list(pool.map(lambda one: passes(*one), asked))
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
    """Estimate, unbiased, the chance that one of k programs passes (Chen et al. 2021, eq. 1)."""
    if total - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(total - correct + 1, total + 1)))


class _Evaluate(ModuleType):
    """Stands in for the library `evaluate`, whose import takes seconds, until more is used."""

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
    """Give our `code_eval` to tasks that are loaded inside; nothing is fetched for it."""
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
    """Return whether all model-written code that a task runs goes through our `code_eval`.

    That holds if the functions that judge its answers have it among their globals, or are lm-eval's
    own metrics.
    """
    own = task.config.process_results
    judges = [own] if callable(own) else [f for f in task._metric_fn_list.values() if callable(f)]
    plain = [getattr(judge, "__self__", judge) for judge in judges]
    ours = [judge for judge in plain if not str(judge.__module__).startswith("lm_eval.api.")]
    return bool(ours) and all(
        any(isinstance(value, CodeEval) for value in judge.__globals__.values()) for judge in ours
    )
