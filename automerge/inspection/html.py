"""An inspection as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from automerge.inspection import words
from automerge.inspection.model import Cell, Gradients, Inspection, Line, Scan, TaskVector, Weights
from automerge.recipe import COMPONENTS
from automerge.text.printable import printable


def html_page(found: Inspection) -> str:
    """Render an inspection; the models' names and texts are escaped."""
    style = _asset("automerge.report", "report.css") + _asset("automerge.inspection", "inspect.css")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    faults, warnings = words.remarks(found)
    pin = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.from_string(_asset("automerge.inspection", "inspect.html.j2")).render(
        csp=f"default-src 'none'; style-src 'sha256-{pin}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # our own files, pinned by the content security policy
        found=found,
        title=words.conclusion(found),
        faults=faults,
        warnings=warnings,
        columns=words.COLUMNS,
        rows=[words.row(found, model) for model in found.models],
        references=[(model.name, printable(model.reference)) for model in found.models],
        similar=_similarities(found),
        collapses=_collapses(found),
        gradients=None if found.gradients is None else _gradients(found, found.gradients),
        scans=[_scan(found, scan) for scan in found.scans],
        weights=None if found.weights is None else _weights(found.weights),
    )


@cache
def _asset(package: str, name: str) -> str:
    return files(package).joinpath("assets", name).read_text(encoding="utf-8")


def _collapses(found: Inspection) -> dict[str, object] | None:
    if not found.collapses:
        return None
    return {
        "title": words.COLLAPSE_TITLE,
        "names": [collapse.source for collapse in found.collapses],
        "rows": [
            [words.number(value) for value in values]
            for values in zip(*(c.layers for c in found.collapses), strict=True)
        ],
        "verdicts": [words.collapse(collapse) for collapse in found.collapses],
    }


def _gradients(found: Inspection, gradients: Gradients) -> dict[str, object]:
    names = found.sources
    largest = max((abs(fall.nats) for fall in gradients.falls), default=0.0) or 1.0
    cosines = {frozenset((pair.one, pair.other)): pair.cosine for pair in gradients.pairs}

    def cosine(one: str, other: str) -> float | None:
        return cosines.get(frozenset((one, other)))

    def fall(text: str, source: str) -> float:
        return words.fall(gradients, text, source)

    return {
        "names": names,
        "cosines": _matrix(names, cosine, words.number, 1.0) if gradients.pairs else [],
        "falls": _matrix(names, fall, words.signed, largest),
        "verdict": words.agreement(gradients),
    }


def _similarities(found: Inspection) -> dict[str, object] | None:
    if not found.similarities:
        return None
    return {
        "title": words.similarity_title(found, found.similarities[0]),
        "names": [similar.source for similar in found.similarities],
        "rows": [
            list(map(words.number, values))
            for values in zip(*(s.layers for s in found.similarities), strict=True)
        ],
    }


def _scan(found: Inspection, scan: Scan) -> dict[str, object]:
    """Lay out a line's scores as a curve of 100 x 40, and the barrier of each layer as a bar."""
    whole, *layers = scan.lines
    values = [point.value for point in whole.points]
    low, high = min(values), max(values)
    sign = -1 if scan.minimize else 1

    def y(value: float) -> float:
        share = 0.5 if high == low else (value - low) / (high - low)
        return 20 - sign * 36 * (share - 0.5)

    largest = max((abs(line.barrier) for line in layers), default=0.0) or 1.0
    points = [
        {
            "x": f"{100 * point.at:g}",
            "y": f"{y(point.value):.2f}",
            "text": f"{point.at:.0%}: {point.value:.4f} ± {point.stderr:.4f}",
        }
        for point in whole.points
    ]
    return {
        "title": words.scan_title(found, scan),
        "barrier": words.barrier(whole),
        "points": points,
        "path": " ".join(f"{p['x']},{p['y']}" for p in points),
        "straight": f"{y(values[0]):.2f}, {y(values[-1]):.2f}".split(", "),
        "rows": [point["text"] for point in points],
        "layers": [_bar(number, line, largest) for number, line in enumerate(layers)],
    }


def _bar(number: int, line: Line, largest: float) -> dict[str, object]:
    size = 18 * line.barrier / largest
    return {
        "x": number,
        "y": f"{20 - max(size, 0.0):.2f}",
        "height": f"{abs(size):.2f}",
        "class": "negative" if size > 0 else "positive",
        "text": f"layer {line.layer}: barrier {words.height(line)}",
    }


def _weights(weights: Weights) -> dict[str, object]:
    relative = [c.relative for v in weights.vectors for c in v.cells if c.relative is not None]
    largest = max(relative, default=0.0) or 1.0
    names = [vector.source for vector in weights.vectors]

    def of_pair(kind: str) -> Callable[[str, str], float | None]:
        def value(one: str, other: str) -> float | None:
            pair = words.pair_of(weights.pairs, one, other)
            return None if pair is None else getattr(pair, kind)

        return value

    return {
        "vectors": [_vector(vector, largest) for vector in weights.vectors],
        "largest": words.share(largest),
        "kinship": words.number(weights.kinship),
        "names": names,
        "cosines": _matrix(names, of_pair("cosine"), words.number, 1.0),
        "conflicts": _matrix(names, of_pair("sign_conflict"), words.share, 0.5),
        "not_finite": weights.not_finite,
    }


def _vector(vector: TaskVector, largest: float) -> dict[str, object]:
    """Lay out a source's heat map: a row per component, a column per layer, outer tensors at the
    ends."""
    columns = list(dict.fromkeys((cell.layer, cell.depth) for cell in vector.cells))
    at = {(cell.layer, cell.depth, cell.component): cell for cell in vector.cells}
    used = [c for c in COMPONENTS if any(cell.component == c for cell in vector.cells)]
    _, norm, relative, changed = words.size(vector)
    return {
        "name": vector.source,
        "norm": norm,
        "relative": relative,
        "changed": changed,
        "width": len(columns),
        "rows": [
            {
                "component": component,
                "cells": [
                    _heat(number, cell, largest)
                    for number, column in enumerate(columns)
                    if (cell := at.get((*column, component))) is not None
                ],
            }
            for component in used
        ],
        "labels": [words.column(*column) for column in columns],
    }


def _heat(number: int, cell: Cell, largest: float) -> dict[str, object]:
    relative = cell.relative or 0.0
    return {
        "x": number,
        "strength": f"{relative / largest:.3f}",
        "text": f"{words.place(cell)}: norm {cell.norm:.4g}, {words.share(cell.relative)} of the "
        f"base's {cell.base_norm:.4g}",
    }


def _matrix(
    names: Sequence[str],
    value: Callable[[str, str], float | None],
    text: Callable[[float], str],
    largest: float,
) -> list[dict[str, object]]:
    """Lay out a square matrix, coloured by sign and by size up to the `largest`.

    `value` is that of a row's and a column's name: None if it is not known, and not shown if it is
    that of a name with itself.
    """
    rows: list[dict[str, object]] = []
    for one in names:
        cells = []
        for other in names:
            found = value(one, other)
            shown = "–" if found is None else text(found)
            strength = min(1.0, abs(found or 0.0) / largest)
            cells.append(
                {
                    "text": "" if found is None and one == other else shown,
                    "class": "negative" if (found or 0.0) < 0 else "positive",
                    "strength": f"{0.75 * strength:.3f}",
                    "title": f"{one} · {other}: {shown}",
                }
            )
        rows.append({"name": one, "cells": cells})
    return rows
