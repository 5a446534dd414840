"""A study as seen from Python programs and notebooks: values with names."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.errors import PreflightError
from automerge.estimation import Interval
from automerge.recipe import Recipe
from automerge.report.choice import choose
from automerge.report.compare import Versus
from automerge.report.likely import Kept
from automerge.report.pick import pick
from automerge.report.summary import Kind, Member, Summary, summarise
from automerge.report.trials_table import Row, trials_table
from automerge.store.read_result import open_study, study_result
from automerge.store.result import StudyResult, count
from automerge.trial import Part

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 12
"""The maximum number of rows of a study's table in a notebook."""


@dataclass(frozen=True)
class PartScores:
    """A model's score on each part of the split; None if it was not measured.

    Scores on search and select items are optimistic for models that were chosen by them.
    """

    search: Interval | None
    select: Interval | None
    test: Interval | None

    @property
    def by_part(self) -> Mapping[Part, Interval | None]:
        """The same by the name of the part."""
        return {"search": self.search, "select": self.select, "test": self.test}


@dataclass(frozen=True, repr=False)
class FrontMember:
    """A model of a study: a merge on the front, a parent, the base or the uniform average.

    Attributes:
        name: the trial's name, as used by `automerge export` and the report.
        kind: "front" for a merge on the front, "parent", "base", or "baseline" for the average.
        on_front: whether nothing dominates it on select items, which may hold for parents too.
        knee: whether it is the merge with the best trade-off on select items.
        trial: the trial's number.
        recipe: how it is merged.
        model_dir: the folder it was exported to; None if it was not exported.
        scores: its scores, by objective.
        versus_parent: differences to the best parent on test items, by objective.
        versus_uniform: differences to the uniform average on test items, by objective.
        nondominated_probability: how often no other member dominates it when test items are
            bootstrapped; None if it was not tested.
        constraints: each constraint of the study, judged on test items.
    """

    name: str
    kind: Kind
    on_front: bool
    knee: bool
    trial: int
    recipe: Recipe
    model_dir: Path | None
    scores: Mapping[str, PartScores]
    versus_parent: Mapping[str, Versus]
    versus_uniform: Mapping[str, Versus]
    nondominated_probability: float | None
    constraints: tuple[Kept, ...]

    def __repr__(self) -> str:
        tests = ((name, scores.test) for name, scores in self.scores.items())
        shown = ", ".join(f"{name} {test.value:.4g}" for name, test in tests if test is not None)
        return f"<FrontMember {self.name}: {self.kind}, {shown or 'not tested'}>"


@dataclass(frozen=True, repr=False)
class Study:
    """A study on disk, as it was when it was read.

    Attributes:
        run: the study's folder.
        result: every trial and its outcomes.
    """

    run: Path
    result: StudyResult

    @cached_property
    def summary(self) -> Summary:
        """The comparisons that every form of the report shows, computed once."""
        return summarise(self.result)

    @cached_property
    def members(self) -> tuple[FrontMember, ...]:
        """All models that are compared: the front, the parents, the base and the average."""
        summary = self.summary
        return tuple(
            _front_member(self.run, member, summary.likely.get(member.name))
            for member in summary.members
        )

    @property
    def front(self) -> tuple[FrontMember, ...]:
        """The merges on the front; empty until it is chosen.

        Parents, base and uniform average can be nondominated beside them: `FrontMember.on_front`.
        """
        return tuple(member for member in self.members if member.kind == "front")

    @property
    def best(self) -> FrontMember | None:
        """The model to take (docs/choosing.md); None before the test, or if there is no front."""
        taken = choose(self.summary)
        return None if taken is None else self._named(taken.name)

    def pick(
        self, prefer: Mapping[str, float], at_least: Mapping[str, float] | None = None
    ) -> FrontMember:
        """Pick a merge from the front by preferences, as `automerge pick` does, on select items.

        Args:
            prefer: weights by objective; empty: all goals weigh 1.
            at_least: bounds by objective, in the metric's own unit; upper ones for objectives that
                are minimised.

        Raises:
            ConfigError: an objective is unknown, or no merge meets the bounds.
        """
        return self._named(pick(self.summary, prefer, at_least or {}).member.name)

    def _named(self, name: str) -> FrontMember:
        return next(member for member in self.members if member.name == name)

    @property
    def knee(self) -> FrontMember | None:
        """The merge on the front with the best trade-off on select items; None if there is none."""
        return next((member for member in self.members if member.knee), None)

    def trials_table(self) -> list[Row]:
        """Return every trial as a row: number, state, method, parameters, estimates and errors."""
        return trials_table(self.result)

    def trials_frame(self) -> DataFrame:
        """Return `trials_table` as a pandas DataFrame, indexed by the trials' numbers.

        Raises:
            PreflightError: pandas is not installed.
        """
        table = self.trials_table()
        columns = list(table[0]) if table else ["number"]
        return _pandas("trials_frame").DataFrame(table, columns=columns).set_index("number")

    def scores_frame(self) -> DataFrame:
        """Return the models' scores as a pandas DataFrame: a row per model, objective and part.

        Its columns are model, kind, objective, part, value, low and high, the ends of the 95 %
        interval, in the metrics' own units.

        Raises:
            PreflightError: pandas is not installed.
        """
        rows = [
            (m.name, m.kind, objective, part, found.value, found.low, found.high)
            for m in self.members
            for objective, scores in m.scores.items()
            for part, found in scores.by_part.items()
            if found is not None
        ]
        columns = ["model", "kind", "objective", "part", "value", "low", "high"]
        return _pandas("scores_frame").DataFrame(rows, columns=columns)

    @property
    def report(self) -> Path:
        """The path of the study's report, a single HTML file."""
        return self.run / "report.html"

    def __repr__(self) -> str:
        trials = count(len(self.result.trials), "trial")
        front = f"{count(len(self.front), 'merge')} on the front"
        return f"<Study {self.result.study} in {self.run}: {self.result.state}, {trials}, {front}>"

    def _repr_html_(self) -> str:
        head = ("model", "kind", *(o.name for o in self.result.objectives))
        more = len(self.members) - SHOWN
        below = f"<p>and {more} more</p>" if more > 0 else ""
        return (
            f"<p>{html.escape(repr(self))}</p>"
            f"<table><thead>{_row('th', head)}</thead>"
            f"<tbody>{''.join(self._cells())}</tbody></table>{below}"
        )

    def _cells(self) -> Iterator[str]:
        part, units = self.summary.part, self.summary.units
        for member in self.members[:SHOWN]:
            cells = [member.name, member.kind]
            for name, scores in member.scores.items():
                found: Interval | None = getattr(scores, part)
                cells.append("" if found is None else units[name].score(found))
            yield _row("td", cells)


def load_study(run: Path | str) -> Study:
    """Read a study from its folder, even while it runs.

    Raises:
        StateError: the folder contains no study, or one that is damaged or of another version.
    """
    run = Path(run)
    with open_study(run) as store:
        return Study(run, study_result(run, store))


def _pandas(method: str) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise PreflightError(
            f"{method}() needs pandas; run pip install pandas, or use trials_table() or members"
        ) from error
    return pandas


def _row(tag: str, cells: tuple[str, ...] | list[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _front_member(run: Path, member: Member, likely: float | None) -> FrontMember:
    trial = member.trial
    return FrontMember(
        name=member.name,
        kind=member.kind,
        on_front=member.on_front,
        knee=member.knee,
        trial=trial.trial.number,
        recipe=trial.trial.recipe,
        model_dir=None if trial.model_dir is None else run / trial.model_dir,
        scores={name: _part_scores(parts) for name, parts in member.scores.items()},
        versus_parent=member.versus_parent,
        versus_uniform=member.versus_uniform,
        nondominated_probability=likely,
        constraints=member.kept,
    )


def _part_scores(parts: Mapping[Part, Interval | None]) -> PartScores:
    return PartScores(parts["search"], parts["select"], parts["test"])
