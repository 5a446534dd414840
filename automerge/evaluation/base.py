"""What measures a model: the contracts of evaluators, in the driver, and of scorers, in workers.

An evaluator is built from entries of `tasks:`, knows their documents and objectives, and attaches
a scorer to a live model. `table.EVALUATORS` lists the evaluators; `panel.Panel` combines several.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from automerge.errors import Fault, PreflightError
from automerge.evaluation.generation.table import AUTO
from automerge.objective import Direction, ItemScores, Objective
from automerge.trial import Items, Part, Steering, Texts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from automerge.checkpoints.kinds import ModelKind
    from automerge.evaluation.split import Split

BATCH_SIZE = 32
"""Sequences that are scored together unless the configuration says otherwise."""
TASKS_FOLDER, ITEMS_FOLDER = "tasks", "items"
"""Where a run folder holds copies: lm-eval's task files, and what other evaluators read."""


@dataclass(frozen=True)
class Entry:
    """One entry of `tasks:` as the user wrote it.

    `evaluator` is a name in `EVALUATORS`, `task` is that evaluator's name for the task, `name` is
    the objective's. A `direction` of None is the task's own. `options` are the entry's other keys.
    """

    evaluator: str
    task: str
    name: str
    direction: Direction | None = None
    goal: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def default_name(task: str, metric: str | None, alone: bool) -> str:
    """Name an objective that was given no name.

    Args:
        task: the task's name.
        metric: which of its metrics, if the entry says so.
        alone: whether no other entry has this task.
    """
    return task if alone or not metric else f"{task}:{metric}"


@dataclass(frozen=True)
class Settings:
    """Settings of all tasks of a study; names follow the configuration.

    `include_path` is the user's own folder of task files. `allow_task_code` lets task files
    outside lm-eval's own package run Python; `allow_code_eval` lets tasks run programs that the
    model wrote. `batch_size` counts sequences, or is "auto"; `max_length` counts tokens; None
    stands for the model's own length. `generator` is a name in `generation.table.GENERATORS`.
    """

    include_path: Path | None = None
    allow_task_code: bool = False
    allow_code_eval: bool = False
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    batch_size: int | Literal["auto"] = BATCH_SIZE
    max_length: int | None = None
    generator: str = AUTO

    @property
    def multiturn(self) -> bool:
        """lm-eval's default: several turns wherever a chat template is applied."""
        if self.fewshot_as_multiturn is None:
            return self.apply_chat_template
        return self.fewshot_as_multiturn


@dataclass(frozen=True, order=True)
class TaskFault:
    """What is wrong with one field of the entry at an index."""

    spec: int
    field: str
    message: str


class TasksRefused(PreflightError):
    """Tasks that cannot be used; `task_faults` says which entry and field."""

    def __init__(self, task_faults: Sequence[TaskFault]) -> None:
        self.task_faults = tuple(task_faults)
        super().__init__([Fault(fault.message) for fault in task_faults])

    def __reduce__(self) -> tuple[type[TasksRefused], tuple[tuple[TaskFault, ...]]]:  # type: ignore[override]
        return TasksRefused, (self.task_faults,)


@dataclass(frozen=True, eq=False)
class Live:
    """The model of a worker, whose weights change between calls of a scorer.

    `distance_to_base` measures it as it is at the call. While `base` is entered, the model holds
    the base's weights; afterwards it holds its own again, the same bits. A pass forwards may keep
    `graph_bytes` for a pass backwards; keys and values of answers under way, or what a batch
    makes and drops, may take `cache_bytes`.
    None is no limit. A model that is no language model may have no tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    distance_to_base: Callable[[], float]
    base: Callable[[], AbstractContextManager[None]]
    graph_bytes: int | None = None
    cache_bytes: int | None = None


@dataclass(frozen=True)
class Scored:
    """Item scores of every objective, with what they cost.

    `forward_s` and `score_s` are seconds for running the model and for judging what it said.
    `tokens` counts those that the model ran. `notes` are shares worth a look, by name. `margins`
    say how far some items are from the other score: finite numbers, above 0 where the score is 1
    and below 0 where it is 0, in one unit per leaf task. Objectives without margins are left out.
    `losses` are the smooth losses whose slopes were asked for, by objective. `answers` are
    generated texts that a metric called entirely right.
    """

    scores: Mapping[str, ItemScores]
    forward_s: float = 0.0
    score_s: float = 0.0
    tokens: int = 0
    notes: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, ItemScores] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    answers: Texts = field(default_factory=dict)


def together(found: Sequence[Scored]) -> Scored:
    """Put together what parts of a job gave: an objective's scores are of the first part that has
    items of it."""
    scores: dict[str, ItemScores] = {}
    for scored in found:
        for name, own in scored.scores.items():
            if name not in scores or not scores[name].items:
                scores[name] = own
    return Scored(
        scores,
        sum(scored.forward_s for scored in found),
        sum(scored.score_s for scored in found),
        sum(scored.tokens for scored in found),
        {note: share for scored in found for note, share in scored.notes.items()},
        {name: own for scored in found for name, own in scored.margins.items() if own.items},
        {name: loss for scored in found for name, loss in scored.losses.items()},
        {name: texts for scored in found for name, texts in scored.answers.items() if texts},
    )


class Scorer(Protocol):
    """Scores a live model on items.

    The law:

    - Scores are those of the weights that the model holds at the call. These may have changed in
      place since the last call: nothing that was computed with weights is kept between calls.
    - Scoring leaves the model's weights and mode and the process's random generators as they were.
    - The same weights and items give the same scores, and except for rounding an item's score does
      not depend on which other items are asked for.
    - Every objective of the evaluator gets item scores, one per requested item of its leaf tasks:
      leaf tasks in the order of its members, and the items of each in the order of the request.
    """

    def score(self, items: Items) -> Scored:
        """Return the item scores of every objective.

        Args:
            items: doc ids by leaf task, of this evaluator's leaf tasks only.

        Raises:
            InvalidOutput: the model is broken; the trial is invalid.
            MetricError: a task did not return one finite number per item.
        """
        ...


class NoRoom(Exception):
    """What one item keeps for a pass backwards does not fit into `Live.graph_bytes`."""


Backward: TypeAlias = Callable[[str, "Tensor", bool], None]
"""Takes an objective's name, a scalar with a graph, and whether the graph is needed again."""


@runtime_checkable
class SlopeScorer(Scorer, Protocol):
    """A scorer that knows the smooth losses behind its scores.

    The law: the gradients of all scalars of an objective that it hands over add up to that of the
    objective's loss, a mean over items that is to be minimised whatever the objective's direction;
    `Scored.losses` has its value. Objectives without such a loss are in neither.
    """

    def score_with_slopes(self, items: Items, steering: Steering, backward: Backward) -> Scored:
        """Return the item scores of every objective, and hand over what their slopes follow from.

        Args:
            items: doc ids by leaf task, of this evaluator's leaf tasks only.
            steering: what losses are made from; a scorer may return as `answers` what it is given
                here later.
            backward: called with parts of the objectives' losses, each at once after its forward
                pass.

        Raises:
            NoRoom: losses cannot be run backwards in the memory there is; scores can be had.
            InvalidOutput: the model is broken; the trial is invalid.
            MetricError: a task gave something else than one finite number per item.
        """
        ...


class OpenTasks(Protocol):
    """The tasks of an evaluator, with everything they read.

    The law: whenever the same copies are opened, leaf tasks have the same names and their documents
    the same order, since an item is a leaf task and a position.
    """

    @property
    def objectives(self) -> Sequence[Objective]:
        """One per entry, in the entries' order."""
        ...

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The leaf tasks of each objective that is a score of items, by the objective's name."""
        ...

    @property
    def parts(self) -> Mapping[str, tuple[Part, ...]]:
        """The parts that a leaf task's documents may be in; all parts for tasks not listed."""
        ...

    def documents(self) -> Mapping[str, Sequence[object]]:
        """Return each leaf task's documents, as the split and the search for near-duplicates read
        them: JSON values, or anything that `split.document_hash` accepts."""
        ...

    def digests(self) -> Mapping[str, str]:
        """Return a digest of each leaf task: of its documents and all that decides its scores."""
        ...

    def warnings(self, split: Split) -> Sequence[str]:
        """Return what users should know before anything is measured, one line each."""
        ...

    def commands(self, model: Path, samples: Path, dtype: str) -> Sequence[Sequence[str]]:
        """Return commands, to be run in the run folder, that score a model on the test items.

        Args:
            model: the model's folder.
            samples: a JSON file of the test items' doc ids by leaf task.
            dtype: what scoring computed in, by torch's name.
        """
        ...

    def attach(self, live: Live) -> Scorer:
        """Return a scorer of a live model; called once, in a worker.

        Raises:
            PreflightError: the tasks cannot be scored on such a model.
        """
        ...


@runtime_checkable
class SmoothTasks(OpenTasks, Protocol):
    """Open tasks whose scorer is a `SlopeScorer`."""

    @property
    def smooth(self) -> Collection[str]:
        """The objectives that have a smooth loss, by name."""
        ...


@runtime_checkable
class GeneratingTasks(OpenTasks, Protocol):
    """Open tasks of which some are answered by generating, which costs most."""

    @property
    def generated(self) -> Collection[str]:
        """The objectives that need generated answers, by name."""
        ...


@runtime_checkable
class FittingTasks(OpenTasks, Protocol):
    """Open tasks that only some kinds of models can be scored on, or that differ between them."""

    def on(self, model: str, kind: ModelKind) -> OpenTasks:
        """Return the tasks as they are on models of a kind.

        Args:
            model: the name of the model's class, for errors.
            kind: its kind.

        Raises:
            TasksRefused: entries that such a model cannot be scored on.
        """
        ...


class Evaluator(Protocol):
    """Opens the tasks that some entries of a study name.

    The law: `keep` copies into a run folder whatever `open` reads besides installed packages and
    public datasets, and does not touch copies that exist; so a study can continue after the
    originals are gone, on any machine that sees the run folder. Copies are below `ITEMS_FOLDER`.
    """

    def keep(self, run: Path) -> None:
        """Copy what the tasks read into a run folder.

        Raises:
            PreflightError: with every fault found, TasksRefused where they belong to entries.
        """
        ...

    def open(self, run: Path) -> OpenTasks:
        """Open the tasks, from the copies in a run folder.

        Raises:
            PreflightError: with every fault found, TasksRefused where they belong to entries.
        """
        ...


EvaluatorFactory: TypeAlias = Callable[[Sequence[Entry], Settings], Evaluator]
"""Builds an evaluator without reading anything."""
