"""What is sent to a worker and what comes back: values only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

from automerge.objective import ItemScores, joined
from automerge.recipe import Coordinate, Recipe

Part = Literal["search", "select", "test", "explain"]
PARTS: tuple[Part, ...] = ("search", "select", "test")
"""Those that items are split into. What explains a model in the end is measured on search items."""

Params: TypeAlias = Mapping[str, float | int | bool | str]
Items: TypeAlias = Mapping[str, tuple[int, ...]]
"""Leaf task → lm-eval doc ids, ascending."""
Texts: TypeAlias = Mapping[str, Mapping[tuple[str, int], str]]
"""Objective → item → what a model generated for it."""

Origin = Literal["base", "source", "uniform", "sweep", "recipe", "start", "sampler"]
BASELINES: tuple[Origin, ...] = ("base", "source", "uniform")
"""Origins of the models that every merge is compared with."""
REFERENCES: tuple[Origin, ...] = (*BASELINES, "sweep")
"""Origins of what is measured on select items without a place in the shortlist."""
CANDIDATES: tuple[Origin, ...] = ("sweep", "start", "sampler")
"""Origins of what a search tries; all others are measured on more items."""
PARENTS: tuple[Origin, ...] = ("base", "source")
"""Origins of the models that merges are made from."""


def count_items(items: Items) -> int:
    """Return the total number of items."""
    return sum(map(len, items.values()))


NO_ROOM = "no_room_for_slopes"
"""The note of a measurement that was to have slopes, which did not fit into memory."""
GENERATED = "generated/"
"""Begins the note that says how answers were generated."""
BATCHED = "batched/"
"""Begins the note that says how large batches are, where memory decides."""
GENERATING = "generating"
"""The note that says which share of the time of running the model went into generating."""

LEFT_OUT = "left_out:"
"""Begins the notes that name objectives which were not measured, because a limit on a cheaper one
was surely missed."""

FailureKind = Literal["invalid", "error", "oom", "timeout", "infra"]


def left_out(notes: Iterable[str]) -> tuple[str, ...]:
    """Return the objectives that notes say were not measured."""
    return tuple(n.removeprefix(LEFT_OUT) for n in notes if n.startswith(LEFT_OUT))


@dataclass(frozen=True)
class Steering:
    """What smooth losses are made from, besides items.

    `temperatures` tell how far apart choices are, by leaf task, in the unit of its margins; for a
    task that is not among them, the worker guesses. `answers` are generated texts that the metric
    called right: where an item has one, it is what a model is to say.
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    answers: Texts = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """What an objective's value must reach (>=) or not exceed (<=)."""

    objective: str
    relation: Literal[">=", "<="]
    value: float


@dataclass(frozen=True)
class Gate:
    """The leaf tasks that are scored first, and limits on their objectives: where one is surely
    missed, no other leaf task is scored."""

    first: tuple[str, ...]
    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class Job:
    """One measurement to make: a recipe on items of one part of the split.

    A part may be measured in several blocks, numbered from 0. With select items, each is in exactly
    one; what explains a model has a block per point of a line (`study.explanation`). With
    `steering`, slopes are wanted too. `keep_answers` asks for the generated texts that are right.
    A `gate` says what is scored first, and what then excludes the trial; slopes have none.
    """

    trial: int
    recipe: Recipe
    part: Part
    items: Items
    block: int = 0
    steering: Steering | None = None
    keep_answers: bool = False
    gate: Gate | None = None

    @property
    def key(self) -> tuple[int, Part, int]:
        """Identifies the job within its study."""
        return self.trial, self.part, self.block


@dataclass(frozen=True)
class Timings:
    """Wall time that a measurement spent in each phase, in seconds."""

    merge: float = 0.0
    forward: float = 0.0
    score: float = 0.0
    total: float = 0.0

    @property
    def rest(self) -> float:
        """Seconds spent in no phase."""
        return self.total - self.merge - self.forward - self.score


@dataclass(frozen=True)
class Weights:
    """The digest of the weights that were scored.

    `without` names tensors that it does not cover, because a live model does not store them.
    """

    digest: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slope:
    """An objective's smooth loss on the items of a measurement, and its derivatives.

    `loss` is minimised, whatever the objective's direction; `by` has its derivative with respect to
    each number of the recipe that has one.
    """

    loss: float
    by: Mapping[Coordinate, float]


@dataclass(frozen=True)
class Measured:
    """Item scores of every objective, by objective name.

    `margins` say, for objectives that have any, how far items are from the other score, as
    `evaluation.base.Scored` describes. `slopes` are set on request, for objectives that have any,
    and so are `answers`, generated texts that the metric called right.
    `arithmetic` is a digest of how the machine rounds; `weights` is set for test items only.
    """

    scores: Mapping[str, ItemScores]
    timings: Timings
    tokens: int = 0
    notes: Mapping[str, float] = field(default_factory=dict)
    """Rates worth a look, such as truncated, empty or repeated generations, and merged tensors."""
    arithmetic: str = ""
    weights: Weights | None = None
    margins: Mapping[str, ItemScores] = field(default_factory=dict)
    slopes: Mapping[str, Slope] = field(default_factory=dict)
    answers: Texts = field(default_factory=dict)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The objectives that were not measured, because the trial is excluded without them."""
        return left_out(self.notes)


@dataclass(frozen=True)
class Failed:
    """Why there are no scores.

    `invalid` means that the merged model is broken (not finite, constant output), `error` that a
    task or the merge raised; the other kinds name what went wrong with the machine.
    """

    kind: FailureKind
    reason: str
    traceback: str = ""


Outcome: TypeAlias = Measured | Failed


def together(blocks: Sequence[Measured]) -> Measured:
    """Combine the measurements of a trial's blocks; notes are averaged, weighted by items."""
    if len(blocks) == 1:
        return blocks[0]
    timings = [block.timings for block in blocks]
    sizes = [sum(len(s.items) for s in block.scores.values()) for block in blocks]
    noted = dict.fromkeys(note for block in blocks for note in block.notes)
    return Measured(
        _joined([block.scores for block in blocks]),
        Timings(*(sum(getattr(t, f.name) for t in timings) for f in fields(Timings))),
        sum(block.tokens for block in blocks),
        {
            note: sum(b.notes.get(note, 0.0) * n for b, n in zip(blocks, sizes, strict=True))
            / max(sum(sizes), 1)
            for note in noted
        },
        margins=_joined([block.margins for block in blocks]),
        answers=_all_answers(blocks),
    )


def _all_answers(blocks: Sequence[Measured]) -> dict[str, dict[tuple[str, int], str]]:
    found: dict[str, dict[tuple[str, int], str]] = {}
    for block in blocks:
        for name, texts in block.answers.items():
            found.setdefault(name, {}).update(texts)
    return found


def chosen_answers(parents: Mapping[int, Measured]) -> dict[str, dict[tuple[str, int], int]]:
    """Choose whose right answers are followed: those of the parent that is right most often.

    Args:
        parents: measurements by trial; of equal ones, the first trial's answers are taken.

    Returns:
        Objective → item → trial. Which parent was measured first does not matter.
    """
    rates: dict[str, list[tuple[float, int]]] = {}
    for number, measured in parents.items():
        for name, texts in measured.answers.items():
            rates.setdefault(name, []).append(
                (-len(texts) / max(len(measured.scores[name].items), 1), number)
            )
    chosen: dict[str, dict[tuple[str, int], int]] = {}
    for name, ranked in rates.items():
        own = chosen[name] = {}
        for _, number in sorted(ranked):
            for item in parents[number].answers[name]:
                own.setdefault(item, number)
    return chosen


def answers_to_follow(parents: Mapping[int, Measured]) -> dict[str, dict[tuple[str, int], str]]:
    """Return the texts of the answers that `chosen_answers` chooses."""
    return {
        name: {item: parents[number].answers[name][item] for item, number in own.items()}
        for name, own in chosen_answers(parents).items()
    }


def _joined(blocks: Sequence[Mapping[str, ItemScores]]) -> dict[str, ItemScores]:
    names = dict.fromkeys(name for block in blocks for name in block)
    return {name: joined([block[name] for block in blocks if name in block]) for name in names}


@dataclass(frozen=True)
class Trial:
    """One recipe of a study, numbered in the order it was proposed.

    `params` is None for recipes that no sampler proposed and the space cannot express. `slopes`
    is the share of a candidate's items that it is measured on with slopes; 0 without. `direction`
    has the weights of the goals whose mixture it was proposed for, which sum to 1; empty where it
    was for none.
    """

    number: int
    recipe: Recipe
    origin: Origin
    name: str
    params: Params | None = None
    slopes: float = 0.0
    direction: tuple[float, ...] = ()


def proposed_name(number: int) -> str:
    """Return the name of a trial that a sampler proposed."""
    return f"trial-{number}"


def is_proposed_name(name: str) -> bool:
    """Return whether a trial that a sampler proposes may have this name."""
    return re.fullmatch(r"trial-[0-9]+|start-.+|sweep-.+|warm-.+", name) is not None


def parent_names(trials: Iterable[Trial]) -> list[str]:
    """Return the names of base and sources among trials."""
    return [trial.name for trial in trials if trial.origin in PARENTS]
