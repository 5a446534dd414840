"""Merge methods, by name."""

from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistic,
    Statistics,
    Values,
    check_recipe,
)
from automerge.methods.dare_linear import DARE_LINEAR
from automerge.methods.dare_ties import DARE_TIES
from automerge.methods.linear import LINEAR
from automerge.methods.slerp import SLERP
from automerge.methods.task_arithmetic import TASK_ARITHMETIC
from automerge.methods.ties import TIES

METHODS: dict[str, Method] = {
    method.name: method for method in (LINEAR, SLERP, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES)
}

__all__ = [
    "METHODS",
    "Coefficients",
    "Knob",
    "Method",
    "Operands",
    "Statistic",
    "Statistics",
    "Values",
    "check_recipe",
]
