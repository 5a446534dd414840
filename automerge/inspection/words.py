"""The words of an inspection, for both the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence

from automerge.inspection.model import (
    Cell,
    Collapse,
    GradientPair,
    Gradients,
    Inspection,
    Line,
    ModelFacts,
    Pair,
    Scan,
    Similarity,
    TaskVector,
)
from automerge.session.downloading import in_words
from automerge.text.printable import printable

COLLAPSED = 0.8
"""A layer's ratio of deviations below which an average is said to have collapsed. No paper draws
the line; in the demo, whose average works, no layer is below 0.93."""
COLLAPSE_TITLE = "Deviations of units in the sources' average, beside each source's, on its text"
GRADIENTS_TITLE = "Gradients of the base's loss on the sources' texts"
FALLS_TITLE = (
    "By how much the loss falls from the base to each source, to first order, nats per token"
)
COLUMNS = (
    *("model", "architecture", "layers", "hidden", "vocabulary", "dtype", "tokenizer", "head"),
    *("chat template", "nearest", "verdict"),
)


def row(found: Inspection, model: ModelFacts) -> tuple[str, ...]:
    """Return one model's cells of the compatibility table."""
    verdict = found.verdicts.get(model.name)
    cells = (
        model.name + (f" ({model.adapter})" if model.adapter else ""),
        model.architecture,
        str(model.layers),
        "?" if model.hidden is None else f"{model.hidden:,}",
        f"{model.vocabulary:,}",
        ", ".join(model.dtypes),
        "" if verdict is None else model.relation,
        "tied" if model.tied_head else "own",
        model.chat_template if verdict else model.chat_template.replace("base's", "its own"),
        "" if verdict is None else nearest(found, model.name),
        "base" if verdict is None else "mergeable" if verdict.mergeable else "cannot be merged",
    )
    return tuple(map(printable, cells))


def nearest(found: Inspection, name: str) -> str:
    """Return a source's nearest model and its distance."""
    if name not in found.nearest:
        return "not downloaded"
    close = found.nearest[name]
    if close is None:
        return "not comparable"
    text = f"{close.model} {close.distance:.3f}"
    return text if close.model == found.base else f"{text} (base {close.to_base:.3f})"


def scan_title(found: Inspection, scan: Scan) -> str:
    """Say what was scored on the way from the base to a source."""
    return printable(
        f"{scan.objective} from {found.base} to {scan.source}, on {scan.n_items} items"
    )


def similarity_title(found: Inspection, similar: Similarity) -> str:
    """Say what is compared."""
    return printable(
        f"CKA of hidden states with those of {found.base}, on {similar.n_prompts} prompts"
    )


def collapse(found: Collapse) -> str:
    """Say how much of a source's variation is left where least is."""
    known = [(value, layer) for layer, value in enumerate(found.layers) if value == value]
    if not known:
        return printable(f"{found.source}: its units do not vary on its text")
    least, layer = min(known)
    verdict = (
        f"less than {COLLAPSED:.0%}: try `calibrate: repair`, or align the sources"
        if least < COLLAPSED
        else "no collapse"
    )
    return printable(
        f"{found.source}: units vary least in layer {layer}, {number(least)} as much as the "
        f"source's; {verdict} (lowest: {found.lowest}, {number(found.ratio)})"
    )


def least_layer(pair: GradientPair) -> str:
    """Name the layer where two gradients agree least, with the cosine there."""
    known = [(value, layer) for layer, value in enumerate(pair.layers) if value is not None]
    if not known:
        return "–"
    value, layer = min(known)
    return f"layer {layer} {number(value)}"


def agreement(found: Gradients) -> str | None:
    """Say which pairs' gradients agree most and least; None if there are no pairs."""
    known = [(pair.cosine, pair) for pair in found.pairs if pair.cosine is not None]
    if not known:
        return None
    (low, least), (high, most) = (pick(known, key=lambda item: item[0]) for pick in (min, max))
    said = f"{most.one} and {most.other} {_agree(high)}"
    if least is not most:
        said = f"Most alike: {said}; least: {least.one} and {least.other} {_agree(low)}"
    return printable(f"{said}.")


def _agree(cosine: float) -> str:
    return f"{'agree' if cosine > 0 else 'conflict'} ({number(cosine)})"


def fall(found: Gradients, text: str, source: str) -> float:
    """Return by how much the loss on a text falls on the way to a source, in nats per token."""
    return next(f.nats for f in found.falls if (f.text, f.source) == (text, source))


def signed(value: float) -> str:
    """Format a number with its sign."""
    return f"{value:+.4f}".replace("-", "−")


def height(line: Line) -> str:
    """Return a barrier's height with its standard error."""
    return f"{line.barrier:+.4f} ± {line.stderr:.4f}".replace("-", "−")


def barrier(line: Line) -> str:
    """Say how high the barrier on a whole line is, and if that is more than its error."""
    if line.barrier > 2 * line.stderr:
        verdict = "the models do not average well as they are"
    elif line.barrier < -2 * line.stderr:
        verdict = "what lies between is better than the straight line from one to the other"
    else:
        verdict = "within two standard errors of none"
    return f"Barrier: {height(line)} (standard error), {line.top:.0%} of the way: {verdict}."


def conclusion(found: Inspection) -> str:
    """Return the verdict in one sentence."""
    n = len(found.verdicts)
    bad = [name for name, verdict in found.verdicts.items() if not verdict.mergeable]
    if not bad:
        all_sources = {1: "The source", 2: "Both sources"}.get(n, f"All {n} sources")
        return f"{all_sources} can be merged with {found.base}."
    return f"{', '.join(bad)} cannot be merged with {found.base} as they are."


def remarks(found: Inspection) -> tuple[list[str], list[str]]:
    """Return lines on what prevents merging, and lines on what else to know."""
    faults = [fault for verdict in found.verdicts.values() for fault in verdict.faults]
    warnings = [w for verdict in found.verdicts.values() for w in verdict.warnings]
    for name, close in found.nearest.items():
        if close is None:
            continue
        if not close.derived:
            warnings.append(
                f"{name} does not seem to be derived from {found.base}: its weights are at a "
                f"distance of {close.to_base:.2f} (unrelated models: 1.41), so its task vector "
                "means little"
            )
        elif close.distance == 0:
            warnings.append(f"{name} is a copy of {close.model} in all weights that were sampled")
        elif close.model != found.base:
            warnings.append(
                f"{name} is nearer to {close.model} ({close.distance:.3f}) than to {found.base} "
                f"({close.to_base:.3f}): one seems to have been made from the other"
            )
    if found.download is not None:
        warnings.append(f"weights were not compared: still to download: {in_words(found.download)}")
    unique = (list(dict.fromkeys(map(printable, lines))) for lines in (faults, warnings))
    first, second = unique
    return first, second


def share(value: float | None) -> str:
    """Format a share in percent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with a true minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def size(vector: TaskVector) -> tuple[str, str, str, str]:
    """Return a task vector's name, norm, norm relative to the base's and share of changes."""
    relative = vector.norm / vector.base_norm if vector.base_norm else None
    return vector.source, f"{vector.norm:.4g}", share(relative), share(vector.changed)


def place(cell: Cell) -> str:
    """Name a cell, as in "layer 3 mlp"."""
    return f"{column(cell.layer, cell.depth)} {cell.component}"


def column(layer: int | None, depth: float) -> str:
    """Name a column of the heat map: a layer, or the tensors before or after the layers."""
    if layer is not None:
        return f"layer {layer}"
    return "after the layers" if depth else "before the layers"


def pair_of(pairs: Sequence[Pair], one: str, other: str) -> Pair | None:
    """Return the comparison of two sources, in either order; None if there is none."""
    return next((p for p in pairs if {p.one, p.other} == {one, other}), None)
