"""How an inspection is put in words, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence

from automerge.inspection.model import Cell, Inspection, ModelFacts, Nearest, Pair, TaskVector
from automerge.text.printable import printable

COLUMNS = (
    *("model", "architecture", "layers", "hidden", "vocabulary", "dtype", "tokenizer", "head"),
    *("chat template", "nearest", "verdict"),
)


def row(found: Inspection, model: ModelFacts) -> tuple[str, ...]:
    """One model's cells of the compatibility table."""
    verdict = found.verdicts.get(model.name)
    cells = (
        model.name + (" (LoRA)" if model.adapter else ""),
        model.architecture,
        str(model.layers),
        "?" if model.hidden is None else f"{model.hidden:,}",
        f"{model.vocabulary:,}",
        ", ".join(model.dtypes),
        "" if verdict is None else model.relation,
        "tied" if model.tied_head else "own",
        model.chat_template if verdict else model.chat_template.replace("base's", "its own"),
        "" if verdict is None else nearest(found.nearest.get(model.name), found.base),
        "base" if verdict is None else "mergeable" if verdict.mergeable else "cannot be merged",
    )
    return tuple(map(printable, cells))


def nearest(found: Nearest | None, base: str) -> str:
    """The nearest model and how far it is."""
    if found is None:
        return "not comparable"
    text = f"{found.model} {found.distance:.3f}"
    return text if found.model == base else f"{text} (base {found.to_base:.3f})"


def conclusion(found: Inspection) -> str:
    """The verdict in one sentence."""
    n = len(found.verdicts)
    bad = [name for name, verdict in found.verdicts.items() if not verdict.mergeable]
    if not bad:
        all_sources = {1: "The source", 2: "Both sources"}.get(n, f"All {n} sources")
        return f"{all_sources} can be merged with {found.base}."
    return f"{', '.join(bad)} cannot be merged with {found.base} as they are."


def remarks(found: Inspection) -> tuple[list[str], list[str]]:
    """What prevents merging, and what to know; each a line."""
    faults = [fault for verdict in found.verdicts.values() for fault in verdict.faults]
    warnings = [w for verdict in found.verdicts.values() for w in verdict.warnings]
    for name, close in found.nearest.items():
        if close is None:
            continue
        if not close.derived:
            warnings.append(
                f"{name} seems not to be derived from {found.base}: its weights are "
                f"{close.to_base:.2f} of their own size away (strangers are 1.41); task vectors "
                "of it mean little"
            )
        elif close.distance == 0:
            warnings.append(f"{name} is a copy of {close.model}, in all weights that were sampled")
        elif close.model != found.base:
            warnings.append(
                f"{name} is nearer to {close.model} ({close.distance:.3f}) than to {found.base} "
                f"({close.to_base:.3f}): one seems to be made from the other"
            )
    unique = (list(dict.fromkeys(map(printable, lines))) for lines in (faults, warnings))
    first, second = unique
    return first, second


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def size(vector: TaskVector) -> tuple[str, str, str, str]:
    """One task vector's line: its name, norm, norm relative to the base's, elements changed."""
    relative = vector.norm / vector.base_norm if vector.base_norm else None
    return vector.source, f"{vector.norm:.4g}", share(relative), share(vector.changed)


def place(cell: Cell) -> str:
    """Where a cell is, such as "layer 3 mlp"."""
    return f"{column(cell.layer, cell.depth)} {cell.component}"


def column(layer: int | None, depth: float) -> str:
    """One column of the heat map: a layer, or what is before or behind them."""
    if layer is not None:
        return f"layer {layer}"
    return "behind the layers" if depth else "before the layers"


def pair_of(pairs: Sequence[Pair], one: str, other: str) -> Pair | None:
    """The pair of two sources, in either order."""
    return next((p for p in pairs if {p.one, p.other} == {one, other}), None)
