"""A task, as configured."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from automerge.config.section import KEY, Problem, Section, entry_of, refuse, unsafe
from automerge.errors import nearest
from automerge.evaluation.table import DIVERGENCE, EVALUATORS, LM_EVAL
from automerge.evaluation.table import PROPERTIES as PROPERTIES_EVALUATOR
from automerge.objective import Direction
from automerge.trial import PARTS, Part

LM_EVAL_ONLY = ("metric", "num_fewshot", "gen_kwargs", "split")


class Task(Section):
    """A task with one of its metrics ("acc" or "acc,none"); None is the task's default.

    `evaluator` is who knows the task; `options` are for evaluators other than lm-eval, the others
    for lm-eval only. `split` names the dataset splits that parts are taken from. A task that is
    `held_out` is scored in the test only. Of these four, only what differs from the default is
    stored.
    """

    evaluator: Annotated[str, entry_of(EVALUATORS)] = unsafe(LM_EVAL)
    task: str = unsafe(min_length=1)
    name: str = unsafe(min_length=1, max_length=200)
    metric: str | None = unsafe(None, min_length=1)
    direction: Direction | None = unsafe(None)
    num_fewshot: int | None = unsafe(None, ge=0, le=1000)
    gen_kwargs: dict[str, Any] = unsafe({})
    split: dict[Part, str] = unsafe({})
    goal: bool = unsafe(True)
    held_out: bool = unsafe(False)
    options: dict[str, Any] = unsafe({})

    @field_validator("split", mode="before")
    @classmethod
    def _parts(cls, split: object) -> object:
        if isinstance(split, dict):
            unknown = [name for name in split if name not in PARTS]
            if unknown:
                problem = "unknown part {!r}{} (a task has search, select and test items)"
                refuse([((n, KEY), problem.format(n, nearest(str(n), PARTS))) for n in unknown])
        return split

    @model_validator(mode="after")
    def _fitting(self) -> Task:
        fields = ("options",) if self.evaluator == LM_EVAL else LM_EVAL_ONLY
        whose = "another evaluator" if self.evaluator == LM_EVAL else "lm-eval"
        problems: list[Problem] = [
            ((name, KEY), f"{name!r} is for tasks of {whose}; remove it")
            for name in fields
            if getattr(self, name) not in (None, {})
        ]
        if self.held_out and self.split:
            text = "a held-out task has test items only, from where lm-eval scores it; remove it"
            problems.append((("split", KEY), text))
        if self.evaluator in (PROPERTIES_EVALUATOR, DIVERGENCE):
            problems.append((("evaluator",), "list properties under `properties:`"))
        if problems:
            refuse(problems)
        return self

    @property
    def is_optimised(self) -> bool:
        """Whether the search optimises it, rather than only measuring it."""
        return self.goal and not self.held_out

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        defaults = {"evaluator": LM_EVAL, "options": {}, "split": {}, "held_out": False}
        return {k: v for k, v in found.items() if k not in defaults or v != defaults[k]}
