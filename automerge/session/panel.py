"""What a study measures, from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from automerge.config import StudyConfig
from automerge.config.task import Task
from automerge.evaluation.base import Entry, Settings
from automerge.evaluation.panel import Panel
from automerge.evaluation.table import DIVERGENCE, LM_EVAL, PROPERTIES
from automerge.objective import KL_TO_BASE


def study_panel(config: StudyConfig) -> Panel:
    """Return the objectives in the words of the evaluators: tasks, then properties."""
    entries = [
        Entry(
            task.evaluator,
            task.task,
            task.name,
            task.direction,
            task.is_optimised and task.name not in config.grouped,
            _options(config, task),
        )
        for task in config.tasks
    ]
    entries += [
        _divergence(config, entries) if name == KL_TO_BASE else Entry(PROPERTIES, name, name)
        for name in config.properties
    ]
    settings = Settings(
        include_path=None if config.include_path is None else Path(config.include_path),
        allow_task_code=config.allow_task_code,
        allow_code_eval=config.allow_code_eval,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.fewshot_as_multiturn,
        system_instruction=config.system_instruction,
        batch_size=config.evaluation.batch_size,
        max_length=config.evaluation.max_length,
        generator=config.evaluation.generator,
    )
    return Panel(tuple(entries), settings)


def _divergence(config: StudyConfig, tasks: Sequence[Entry]) -> Entry:
    """Compare predictions on the text that was named, else on the prompts of lm-eval's tasks,
    without few-shot examples."""
    if KL_TO_BASE in config.item_files:
        options: dict[str, Any] = {"text": config.item_files[KL_TO_BASE]}
    else:
        own = {task.task: task for task in tasks if task.evaluator == LM_EVAL}
        options = {
            "tasks": tuple(
                replace(task, name=name, options={**task.options, "num_fewshot": 0})
                for name, task in own.items()
            )
        }
    return Entry(DIVERGENCE, KL_TO_BASE, KL_TO_BASE, "minimize", options=options)


def _options(config: StudyConfig, task: Task) -> dict[str, Any]:
    if task.evaluator != LM_EVAL:
        items = config.item_files.get(task.name)
        return {**task.options, **({} if items is None else {"items": items})}
    return {
        "metric": task.metric,
        "num_fewshot": task.num_fewshot,
        "gen_kwargs": task.gen_kwargs,
        "split": task.split,
    }
