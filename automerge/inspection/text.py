"""An inspection on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from automerge.inspection import words
from automerge.inspection.model import Collapse, Gradients, Inspection, Scan, Similarity, Weights
from automerge.text.printable import printable

STYLES = {"mergeable": "green", "cannot be merged": "red"}
MAX_CELLS = 2
"""The number of cells named as those with the largest change."""


@dataclass(frozen=True)
class InspectionText:
    """Draws an inspection for `rich`: tables if they fit, else a few lines per model."""

    found: Inspection

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._compatibility()
        natural = Measurement.get(console, options.update(max_width=10_000), table)
        if natural.maximum <= options.max_width:
            yield table
        else:
            yield from self._blocks()
        if self.found.weights is not None:
            yield from self._weights(self.found.weights)
        if self.found.similarities:
            yield from self._similarities(self.found.similarities)
        if self.found.collapses:
            yield from self._collapses(self.found.collapses)
        if self.found.gradients is not None:
            yield from self._gradients(self.found.gradients)
        for scan in self.found.scans:
            yield from self._scan(scan)
        faults, warnings = words.remarks(self.found)
        for line in warnings:
            yield Text(f"warning: {line}")
        for line in faults:
            yield Text(line, style="red")
        yield Text(words.conclusion(self.found), style="bold")

    def _compatibility(self) -> Table:
        table = new_table(*words.COLUMNS)
        for model in self.found.models:
            cells = words.row(self.found, model)
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
        return table

    def _blocks(self) -> RenderResult:
        """Yield the base in full, and what differs from it for each source."""
        rows = [words.row(self.found, model) for model in self.found.models]
        for cells in rows:
            yield Text(cells[0], style="bold")
            for title, cell, same in zip(words.COLUMNS[1:], cells[1:], rows[0][1:], strict=True):
                if cell and (cells is rows[0] or cell != same):
                    yield Text(f"  {title:14} ").append(cell, style=STYLES.get(cell, ""))
        yield Text()

    def _weights(self, weights: Weights) -> RenderResult:
        table = new_table("task vector", "norm", "of the base", "elements changed", "largest in")
        for vector in weights.vectors:
            cells = sorted(vector.cells, key=lambda cell: -(cell.relative or 0.0))[:MAX_CELLS]
            where = ", ".join(
                f"{words.place(cell)} {words.share(cell.relative)}" for cell in cells if cell.norm
            )
            table.add_row(*map(Text, (*words.size(vector), where)))
        yield table
        if weights.pairs:
            pairs = new_table("pair", "cosine", "sign conflict", "distance")
            for pair in weights.pairs:
                pairs.add_row(
                    Text(f"{pair.one} · {pair.other}"),
                    Text(words.number(pair.cosine)),
                    Text(words.share(pair.sign_conflict)),
                    Text(f"{pair.distance:.4g}"),
                )
            yield pairs
            yield Text(f"Kinship (mean cosine): {words.number(weights.kinship)}")

    def _similarities(self, found: Sequence[Similarity]) -> RenderResult:
        """Yield the CKA of hidden states: a row per layer, a column per source."""
        yield Text(words.similarity_title(self.found, found[0]), style="bold")
        table = new_table("after layer", *(printable(similar.source) for similar in found))
        for layer, values in enumerate(zip(*(s.layers for s in found), strict=True)):
            table.add_row(*map(Text, (str(layer), *map(words.number, values))))
        yield table

    def _collapses(self, found: Sequence[Collapse]) -> RenderResult:
        """Yield ratios of deviations: a row per layer, a column per source."""
        yield Text(words.COLLAPSE_TITLE, style="bold")
        table = new_table("in layer", *(printable(collapse.source) for collapse in found))
        for layer, values in enumerate(zip(*(c.layers for c in found), strict=True)):
            table.add_row(*map(Text, (str(layer), *map(words.number, values))))
        yield table
        for collapse in found:
            yield Text(words.collapse(collapse))

    def _gradients(self, found: Gradients) -> RenderResult:
        """Yield cosines: a row per pair; then falls: a row per text, a column per task vector."""
        if found.pairs:
            yield Text(words.GRADIENTS_TITLE, style="bold")
            table = new_table("pair", "cosine", "least in")
            for pair in found.pairs:
                cells = f"{pair.one} · {pair.other}", words.number(pair.cosine)
                table.add_row(*map(Text, (*map(printable, cells), words.least_layer(pair))))
            yield table
        if (said := words.agreement(found)) is not None:
            yield Text(said)
        yield Text(words.FALLS_TITLE, style="bold")
        sources = self.found.sources
        table = new_table("on the text of", *(printable(f"to {source}") for source in sources))
        for text in sources:
            falls = [words.signed(words.fall(found, text, source)) for source in sources]
            table.add_row(*map(Text, (printable(text), *falls)))
        yield table

    def _scan(self, scan: Scan) -> RenderResult:
        """Yield the scores on a line, then each layer's barrier, the highest first."""
        whole, *layers = scan.lines
        yield Text(words.scan_title(self.found, scan), style="bold")
        table = new_table("of the way", scan.metric, "standard error")
        for point in whole.points:
            texts = f"{point.at:.0%}", f"{point.value:.4f}", f"{point.stderr:.4f}"
            table.add_row(*map(Text, texts))
        yield table
        yield Text(words.barrier(whole))
        table = new_table("one layer moved", "half way", "all the way", "barrier")
        for line in layers:
            _, half, end = line.points
            cells = str(line.layer), f"{half.value:.4f}", f"{end.value:.4f}", words.height(line)
            table.add_row(*map(Text, cells))
        yield table


def new_table(*titles: str) -> Table:
    """Return an empty table in the style of the front's."""
    table = Table(*titles, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in table.columns:
        column.overflow = "fold"
    return table
