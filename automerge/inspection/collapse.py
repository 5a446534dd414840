"""Whether units of an average of models still vary as they do in the models: variance collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from automerge.checkpoints import places
from automerge.evidence.activations import gather_activations
from automerge.inspection.model import Collapse
from automerge.inspection.reading import open_reading
from automerge.recipe import single, uniform_average


def collapses(
    references: Mapping[str, str],
    texts: Mapping[str | None, Path],
    device: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Collapse, ...]:
    """Compare deviations of units in the sources' average with those in each source.

    Sharma et al. 2024 (arXiv:2410.12766): where sources are far apart, the activations of their
    merge vary less than a source's do on the source's own task. All are merged into one live model
    in turn, and read with the base's tokenizer.

    Args:
        references: paths or hub ids by name, the base first.
        texts: a file, or a folder of text files, per source; None for all that are not named.
        device: "auto", "cpu" or "cuda".
        progress: called with the number of passes over a text done and in total.

    Raises:
        ConfigError: there is one source only, or texts do not belong to sources.
        PreflightError: a model or a text cannot be read.
    """
    reading = open_reading("--collapse", references, texts, device, least=2)
    model, engine, sources = reading.model, reading.engine, tuple(reading.pieces)
    total, done = 2 * len(sources), 0

    def gathered(name: str) -> dict[str, Tensor]:
        nonlocal done
        found = gather_activations(model, engine.tensors(model), reading.pieces[name])
        done += 1
        progress(done, total)
        return found

    alone: dict[str, dict[str, Tensor]] = {}
    for name in sources:
        engine.merge_into(model, single(name))
        alone[name] = gathered(name)
    engine.merge_into(model, uniform_average(sources))
    return tuple(collapse(name, gathered(name), alone[name]) for name in sources)


def collapse(source: str, merged: Mapping[str, Tensor], alone: Mapping[str, Tensor]) -> Collapse:
    """Return how much units of a merge vary beside those of a source, on the same text.

    A linear layer's ratio is √(Σ σ²(merge) / Σ σ²(source)) over its units. A layer of the model has
    the mean of its linear layers' ratios, leaving out those whose units never vary in the source.
    Taking units together like this is ours.

    Args:
        source: its name.
        merged: means and deviations of units, (2, units), by the name of a linear layer's weight.
        alone: the same of the source.
    """
    by_layer: dict[int, list[float]] = {}
    ratios: dict[str, float] = {}
    for name, place in places(merged).items():
        whole, own = (float(torch.sum(found[name][1].double() ** 2)) for found in (merged, alone))
        ratio = math.sqrt(whole / own) if own > 0 else math.nan
        if place.layer is not None and math.isfinite(ratio):
            ratios[name] = ratio
            by_layer.setdefault(place.layer, []).append(ratio)
    lowest = min(ratios, key=lambda name: ratios[name], default="")
    return Collapse(
        source,
        tuple(
            math.fsum(by_layer[layer]) / len(by_layer[layer]) if layer in by_layer else math.nan
            for layer in range(max(by_layer, default=-1) + 1)
        ),
        lowest,
        ratios.get(lowest, math.nan),
    )
