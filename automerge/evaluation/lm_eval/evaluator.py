"""lm-eval's tasks as an evaluator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from automerge.checkpoints.kinds import ModelKind
from automerge.errors import PreflightError
from automerge.evaluation.base import TASKS_FOLDER, Entry, Live, Settings, TaskFault, TasksRefused
from automerge.evaluation.generation.table import VLLM
from automerge.evaluation.lm_eval.claims import claim_warnings
from automerge.evaluation.lm_eval.losses import smooth_objectives
from automerge.evaluation.lm_eval.samples import reproduce_commands
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSet, TaskSpec, load_tasks
from automerge.evaluation.split import Split
from automerge.objective import Objective
from automerge.trial import Part

OUTPUT = Path("lm_eval_output")


class LmEval:
    """Opens lm-eval's own tasks and those in the user's folder."""

    def __init__(self, entries: Sequence[Entry], settings: Settings) -> None:
        self._specs = tuple(map(_spec, entries))
        self._settings = settings

    def keep(self, run: Path) -> None:
        """Copy the files in the user's folder that the study's tasks lead to."""
        own, copied = self._settings.include_path, run / TASKS_FOLDER
        if own is not None and not copied.is_dir():
            with _named_as(own, copied):
                copy_tasks(own, copied, [spec.task for spec in self._specs])

    def open(self, run: Path) -> LmEvalTasks:
        """Load the tasks as lm-eval's command line would."""
        own, copied = self._settings.include_path, (run / TASKS_FOLDER).resolve()
        settings = replace(self._settings, include_path=None if own is None else copied)
        if own is None:
            return LmEvalTasks(load_tasks(self._specs, settings))
        with _named_as(own, copied):
            return LmEvalTasks(load_tasks(self._specs, settings, own))


def _spec(entry: Entry) -> TaskSpec:
    return TaskSpec(
        task=entry.task,
        direction=entry.direction,
        name=entry.name,
        goal=entry.goal,
        **entry.options,
    )


@contextmanager
def _named_as(own: Path, copied: Path) -> Iterator[None]:
    """Name the user's folder, not its copy, in messages about faults."""

    def said(message: str) -> str:
        return message.replace(str(copied.resolve()), str(own)).replace(str(copied), str(own))

    try:
        yield
    except TasksRefused as error:
        raise TasksRefused(
            [TaskFault(f.spec, f.field, said(f.message)) for f in error.task_faults]
        ) from error
    except PreflightError as error:
        raise PreflightError([replace(f, message=said(f.message)) for f in error.faults]) from error


@dataclass(frozen=True, eq=False)
class LmEvalTasks:
    """Loaded tasks behind the contract, as they are on a kind of language model."""

    task_set: TaskSet
    kind: ModelKind = ModelKind.DECODER

    def on(self, model: str, kind: ModelKind) -> LmEvalTasks:
        """Return the tasks as they are on a kind of model; raises TasksRefused if they are not."""
        settings = self.task_set.settings
        problem = None
        if kind is ModelKind.OTHER:
            problem = (
                f"lm-eval scores language models, and {model} is none: score it with a function of "
                "yours (`python:`, docs/evaluators.md)"
            )
            if model.endswith("Model"):
                problem += ", or save it with its output head, with AutoModelForCausalLM"
        elif kind is ModelKind.ENCODER_DECODER and settings.generator == VLLM:
            problem = (
                f"vLLM cannot generate with {model}, which has an encoder: leave out "
                "evaluation.generator"
            )
        if problem is not None:
            specs = enumerate(self.task_set.specs)
            raise TasksRefused(
                [TaskFault(i, "task", f"task {spec.task!r}: {problem}") for i, spec in specs]
            )
        return replace(self, kind=kind)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One per entry."""
        return self.task_set.objectives

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The leaf tasks of tasks, groups and tags."""
        return self.task_set.members

    @property
    def parts(self) -> Mapping[str, tuple[Part, ...]]:
        """The parts of tasks that have their own dataset splits."""
        return self.task_set.parts

    @cached_property
    def smooth(self) -> tuple[str, ...]:
        """The objectives whose documents have a smooth loss."""
        return smooth_objectives(self.task_set) if self.kind is ModelKind.DECODER else ()

    @property
    def generated(self) -> tuple[str, ...]:
        """The objectives of which a leaf task is answered by generating."""
        tasks = self.task_set.tasks
        return tuple(
            name
            for name, leaves in self.members.items()
            if any(tasks[leaf].OUTPUT_TYPE == "generate_until" for leaf in leaves)
        )

    def documents(self) -> dict[str, list[dict[str, Any]]]:
        """Return every leaf task's documents, by lm-eval's doc id."""
        return self.task_set.documents()

    def digests(self) -> dict[str, str]:
        """Return hashes of each leaf task's configuration and documents."""
        return self.task_set.digests()

    def warnings(self, split: Split) -> list[str]:
        """Return what the test scores will not be able to show."""
        return claim_warnings(self.task_set, split)

    def commands(self, model: Path, samples: Path, dtype: str) -> list[list[str]]:
        """Return commands of lm-eval itself.

        It pads what an encoder reads on the left, and lets an answer be longer the longer the
        longest prompt of a batch is. So its answers depend on the batch; here they are those of
        prompts alone.
        """
        settings = self.task_set.settings
        folder = None if settings.include_path is None else Path(TASKS_FOLDER)
        alone = self.kind is ModelKind.ENCODER_DECODER and self.generated
        size = 1 if alone else settings.batch_size
        return reproduce_commands(self.task_set, model, folder, samples, OUTPUT, size, dtype)

    def attach(self, live: Live) -> LmEvalScorer:
        """Return a scorer with the study's batch size, length and generator."""
        return LmEvalScorer(
            live.model,
            live.tokenizer,
            self.task_set,
            self.task_set.settings.batch_size,
            self.task_set.settings.max_length,
            live.graph_bytes,
            self.task_set.settings.generator,
            live.cache_bytes,
        )
