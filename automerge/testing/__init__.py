"""Conformance suites for what others add: each is a class of tests that takes one fixture or two.

They need pytest, which `pip install automerge-llm[test]` brings.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automerge.testing.evaluators import EvaluatorLaws
    from automerge.testing.executors import ExecutorLaws
    from automerge.testing.generators import GeneratorLaws
    from automerge.testing.methods import MethodLaws
    from automerge.testing.samplers import SamplerLaws

__all__ = ["EvaluatorLaws", "ExecutorLaws", "GeneratorLaws", "MethodLaws", "SamplerLaws"]

_HOMES = {
    "EvaluatorLaws": "automerge.testing.evaluators",
    "ExecutorLaws": "automerge.testing.executors",
    "GeneratorLaws": "automerge.testing.generators",
    "MethodLaws": "automerge.testing.methods",
    "SamplerLaws": "automerge.testing.samplers",
}

# Before any of them is imported, under whichever name, so that pytest explains their assertions.
if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite(*_HOMES.values())


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'automerge.testing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
