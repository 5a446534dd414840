"""The evaluators, by the names that entries of `tasks:` use; each imports what it needs late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from automerge.evaluation.base import Entry, Evaluator, EvaluatorFactory, Settings
from automerge.evaluation.outside import outside
from automerge.extensions import Table

LM_EVAL, PYTHON, PROPERTIES, DIVERGENCE = "lm_eval", "python", "properties", "divergence"


def _lm_eval(entries: Sequence[Entry], settings: Settings) -> Evaluator:
    from automerge.evaluation.lm_eval.evaluator import LmEval

    return LmEval(entries, settings)


def _python(entries: Sequence[Entry], settings: Settings) -> Evaluator:
    from automerge.evaluation.python.evaluator import PythonFunctions

    return PythonFunctions(entries, settings)


def _properties(entries: Sequence[Entry], settings: Settings) -> Evaluator:
    from automerge.evaluation.properties import Properties

    return Properties(entries, settings)


def _divergence(entries: Sequence[Entry], settings: Settings) -> Evaluator:
    from automerge.evaluation.divergence.evaluator import Divergence

    return Divergence(entries, settings)


def _admit(name: str, found: object) -> EvaluatorFactory:
    """Accept an evaluator's class or factory from outside; raise TypeError for other things."""
    if not callable(found):
        raise TypeError(
            f"expected a class or function of (entries, settings), got {type(found).__name__}"
        )
    return outside(name, cast(EvaluatorFactory, found))


EVALUATORS: Table[EvaluatorFactory] = Table(
    "evaluator",
    {LM_EVAL: _lm_eval, PYTHON: _python, PROPERTIES: _properties, DIVERGENCE: _divergence},
    "automerge.evaluators",
    _admit,
)
