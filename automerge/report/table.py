"""The front as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from automerge.constraint import Constraint
from automerge.estimation import Difference, Interval
from automerge.objective import Objective
from automerge.report.choice import ranked
from automerge.report.compare import verdict
from automerge.report.conclusion import conclusion
from automerge.report.summary import Member, Summary
from automerge.text.terminal import harmless, in_encoding
from automerge.trial import Part

PART_TITLES: dict[Part, str] = {
    "search": "scores on search items (optimistic)",
    "select": "scores on select items (slightly optimistic)",
    "test": "scores on sealed test items",
}
KINDS = {"front": "front", "parent": "parent", "base": "base", "baseline": "average"}

_STYLES = {"better": "green", "worse": "red", "unclear": ""}


SHOWN = 6
"""The maximum number of merges in the short table."""


@dataclass(frozen=True)
class FrontTable:
    """Draws the front for `rich`: the model to take, then a table, then what can be concluded.

    The short table has test scores only, of the best merges on select items and of the parents, and
    fits 80 columns: objectives without room are left out, and named. `every` draws all models with
    their intervals and differences: a table if it fits, else a few lines per model. Characters that
    the encoding lacks are replaced by ASCII or question marks.
    """

    summary: Summary
    run: Path | None = None
    every: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        writer = _Writer(self.summary, options.encoding)
        first, *others = conclusion(self.summary)
        yield writer.text(first, "bold")
        if self.summary.members:
            short = None if self.every else writer.short(console, options)
            if short is None:
                yield from self._all(writer, console, options)
            else:
                yield short
                yield from writer.short_notes(self.run)
        for sentence in others:
            yield writer.text(sentence)

    def _all(self, writer: _Writer, console: Console, options: ConsoleOptions) -> RenderResult:
        yield writer.text(f"{self.summary.result.study}: {PART_TITLES[self.summary.part]}", "bold")
        table = writer.table()
        natural = Measurement.get(console, options.update(max_width=10_000), table)
        if natural.maximum <= options.max_width:
            yield table
        else:
            yield from writer.blocks()
        yield from writer.notes()


@dataclass(frozen=True)
class _Writer:
    summary: Summary
    encoding: str

    def text(self, text: str, style: str = "") -> Text:
        return Text(in_encoding(harmless(text), self.encoding), style=style)

    def short(self, console: Console, options: ConsoleOptions) -> Table | None:
        """Return the short table with as many objectives as fit; None if none does."""
        goals = self.summary.result.objectives
        for shown in range(len(goals), 0, -1):
            table = self._short(goals[:shown])
            natural = Measurement.get(console, options.update(max_width=10_000), table)
            if natural.maximum <= options.max_width:
                if shown < len(goals):
                    left = ", ".join(o.name for o in goals[shown:])
                    table.caption = self.text(f"no room for {left}")
                return table
        return None

    def _short(self, objectives: Sequence[Objective]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("model", no_wrap=True)
        for title in ("mean", "gain") if self.shows_mean else ():
            table.add_column(title, justify="right", no_wrap=True)
        for name in short_names([o.name for o in objectives]):
            table.add_column(self.text(name), justify="right", no_wrap=True)
        table.add_column("sure", justify="right", no_wrap=True)
        merges, rest = (
            ranked(self.summary)[:SHOWN],
            [m for m in self.summary.members if m.kind != "front"],
        )
        for row, member in enumerate((*merges, *rest)):
            cells = [self.score(member, o) for o in objectives]
            table.add_row(
                self.text(member.name, "bold" if member.kind == "front" else "dim"),
                *self.mean_cells(member),
                *cells,
                self.sure(member),
                end_section=row + 1 == len(merges),
            )
        return table

    def score(self, member: Member, objective: Objective) -> Text:
        found = member.scores[objective.name][self.summary.part]
        unit = self.summary.units[objective.name]
        return self.text("" if found is None else unit.value(found.value))

    def mean_cells(self, member: Member) -> list[Text]:
        means = self.summary.means
        if means is None or not self.shows_mean:
            return []
        goal = self.summary.result.goals[0]
        unit = self.summary.units[goal.name]
        score, versus = means.scores.get(member.name), means.versus.get(member.name)
        value = self.text("" if score is None else unit.value(score.value))
        if versus is None:
            return [value, self.text("")]
        found = verdict(versus, goal)
        mark = " " if found == "unclear" else "*"
        return [value, self.text(unit.difference(versus.difference) + mark, _STYLES[found])]

    def sure(self, member: Member) -> Text:
        likely = self.summary.likely.get(member.name)
        if member.kind == "front" and likely is not None:
            return self.text(f"{100 * likely:.0f} %")
        return self.text(KINDS[member.kind], "dim")

    def short_notes(self, run: Path | None) -> RenderResult:
        """Say what the columns are and where the rest is."""
        part = PART_TITLES[self.summary.part]
        means = self.summary.means
        gain = (
            f" gain: over {means.best_parent} on the mean; *: its 95 % interval excludes 0."
            if means is not None and self.shows_mean
            else ""
        )
        sure = (
            " sure: how often nothing here dominates it, in resamples of the test items."
            if self.summary.likely
            else ""
        )
        yield self.text(f"{part[0].upper()}{part[1:]}.{gain}{sure}", "dim")
        more = len(self.summary.front) - SHOWN
        if run is not None:
            which = f"{more} more merges, intervals" if more > 0 else "intervals"
            yield self.text(f"{which}, differences: automerge show {run} --all", "dim")

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("model", no_wrap=True)
        for title in self.titles():
            table.add_column(self.text(title), justify="right", no_wrap=True)
        members = self.summary.members
        for row, member in enumerate(members):
            last = row + 1 == len(members) or (member.kind == "front") != (
                members[row + 1].kind == "front"
            )
            table.add_row(self.name(member), *self.cells(member), end_section=last)
        return table

    def blocks(self) -> RenderResult:
        for member in self.summary.members:
            yield self.name(member)
            for title, cell in zip(self.titles(), self.cells(member), strict=True):
                yield Text("  ").append(self.text(f"{title}  ")).append(cell)

    def titles(self) -> list[str]:
        mean = ["mean"] if self.shows_mean else []
        return [*mean, *(o.name for o in self.summary.result.objectives)]

    @property
    def shows_mean(self) -> bool:
        return self.summary.means is not None and len(self.summary.result.goals) > 1

    def cells(self, member: Member) -> list[Text]:
        cells = [self.objective_cell(member, o) for o in self.summary.result.objectives]
        means = self.summary.means
        if means is None or not self.shows_mean:
            return cells
        first = self.summary.result.goals[0]
        score, versus = means.scores.get(member.name), means.versus.get(member.name)
        return [self.cell(first, score, versus), *cells]

    def name(self, member: Member) -> Text:
        knee = ", knee" if member.knee else ""
        likely = self.summary.likely.get(member.name)
        if likely is not None and member.on_front:
            knee += f", {100 * likely:.0f} %"
        kind = "parent on the front" if _surviving(member) else KINDS[member.kind]
        label = f"{kind}{knee}"
        if member.name == label:
            return self.text(member.name, "bold")
        return self.text(member.name, "bold").append(f" {label}", style="dim not bold")

    def objective_cell(self, member: Member, objective: Objective) -> Text:
        score = member.scores[objective.name][self.summary.part]
        versus = member.versus_parent.get(objective.name)
        return self.cell(objective, score, None if versus is None else versus.difference)

    def cell(self, objective: Objective, score: Interval | None, versus: Difference | None) -> Text:
        unit = self.summary.units[objective.name]
        if score is None:
            return self.text("no score", "dim")
        text = self.text(unit.score(score))
        if versus is None:
            return text
        found = verdict(versus, objective)
        mark = " " if found == "unclear" else "*"
        return text.append(
            self.text(f" {unit.difference(versus.difference):>5}{mark}", _STYLES[found])
        )

    def notes(self) -> RenderResult:
        summary = self.summary
        yield self.text("± half the width of the 95 % interval.", "dim")
        if summary.best_parent and summary.part == "test":
            held_out = {o.name for o in summary.result.objectives if o.held_out}
            best = ", ".join(
                f"{name}: {parent}" + (" (held out: on test items)" if name in held_out else "")
                for name, parent in summary.best_parent.items()
            )
            yield self.text(
                "Then the difference to the best parent, chosen on select items "
                f"({best}); *: its interval excludes 0.",
                "dim",
            )
        if any(member.name in summary.likely for member in summary.members):
            yield self.text(
                "% after a name: how often the model is nondominated when test items are "
                "bootstrapped.",
                "dim",
            )
        for constraint in summary.result.constraints:
            yield self.text(self.constraint(constraint), "dim")
        if summary.optimism:
            yield self.text(f"Optimism of the search (search − test): {self.optimism()}.", "dim")

    def constraint(self, constraint: Constraint) -> str:
        found = [
            kept.verdict
            for member in self.summary.front
            for kept in member.kept
            if kept.constraint == constraint
        ]
        counts = [(word, found.count(word)) for word in ("kept", "unclear", "missed")]
        words = ", ".join(f"{word} by {n}" for word, n in counts if n)
        return f"{constraint}: on test items {words or 'not measured'}."

    def optimism(self) -> str:
        return ", ".join(
            f"{name} {self.summary.units[name].difference(found.value)}"
            for name, found in self.summary.optimism.items()
        )


def short_names(names: Sequence[str]) -> list[str]:
    """Return names without a beginning that all share, up to an underscore."""
    head, _, _ = names[0].partition("_")
    head += "_"
    if len(names) < 2 or not all(name.startswith(head) and name != head for name in names):
        return list(names)
    return [name.removeprefix(head) for name in names]


def _surviving(member: Member) -> bool:
    return member.kind == "parent" and member.on_front
