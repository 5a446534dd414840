"""Open models, compare them, and measure their weights on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from automerge.checkpoints import (
    Checkpoint,
    ModelFolder,
    adapter_kind,
    places,
    resolve,
)
from automerge.checkpoints.outline import Download, Outlines
from automerge.checkpoints.presented import saved_config
from automerge.checkpoints.vocabularies.alignment import tied
from automerge.checkpoints.vocabularies.chat_templates import chat_template
from automerge.checkpoints.vocabularies.size import n_rows
from automerge.checkpoints.vocabularies.vocabulary import Relation, relations
from automerge.errors import ConfigError, Fault, Location, PreflightError
from automerge.files.references import short_name, split_name
from automerge.inspection.model import Inspection, ModelFacts, Verdict, Weights
from automerge.inspection.nearest import find_nearest
from automerge.inspection.weights import Progress, measure
from automerge.recipe import BASE, BASE_VOCABULARY
from automerge.session.preflight import Find, Found, compare_aligned, find_models


def name_models(arguments: Sequence[str]) -> dict[str, str]:
    """Name models given as NAME=REFERENCE or REFERENCE, the base first.

    A model without a name is named after the end of its path, the base "base".

    Raises:
        ConfigError: an argument is neither, or two models have the same name.
    """
    named: dict[str, str] = {}
    faults = []
    for i, argument in enumerate(arguments):
        try:
            name, reference = split_name(argument, Path.cwd())
        except ValueError as error:
            faults.append(Fault(str(error)))
            continue
        if name in named:
            faults.append(Fault(f"two models are named {name!r}; choose another name for one"))
            continue
        if not name and i == 0:
            name = BASE
        named[name or free_name(reference, named)] = reference
    if faults:
        raise ConfigError(faults)
    return named


def free_name(reference: str, taken: Mapping[str, str]) -> str:
    """Return a name for a model, after the end of its path, that no other model has."""
    name = short_name(reference)
    candidates = (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def examine(
    references: Mapping[str, str],
    weights: bool,
    progress: Progress | None = None,
    note: Callable[[Download], None] = lambda _: None,
) -> Inspection:
    """Compare a base with sources; of models of the hub, read all but the weights, unless asked to.

    Args:
        references: paths or hub ids by name; the base is the first.
        weights: whether to read all weights and measure task vectors. What can be merged is then
            downloaded.
        progress: called with the number of elements read and in total.
        note: told what is downloaded.

    Returns:
        What was found. Sources that cannot be merged are in it too, but not in its weights.

    Raises:
        PreflightError: a model cannot be read at all.
    """
    base = next(iter(references))
    with Outlines() as outlines:
        try:
            opened = _opened(references, base, outlines.find)
            found = _translated(_compared(opened, base, outlines), outlines)
        except PreflightError as error:
            raise PreflightError(outlines.translated(error.faults)) from error
        if weights and found.download is None:
            return _measured(found, opened.checkpoints, progress)
    if not weights or found.download is None:
        return found
    note(found.download)
    kept = [name for name in references if name == base or found.verdicts[name].mergeable]
    with Outlines() as outlines:
        opened = _opened({name: references[name] for name in kept}, base, resolve)
        here = _measured(_compared(opened, base, outlines), opened.checkpoints, progress)
    now = {model.name: model for model in here.models}
    return replace(
        here,
        models=tuple(now.get(model.name, model) for model in found.models),
        verdicts={**found.verdicts, **here.verdicts},
    )


def _opened(references: Mapping[str, str], base: str, find: Find) -> Found:
    opened = find_models(references, base, Location, find)
    if opened.faults:
        raise PreflightError(opened.faults)
    return opened


def _compared(opened: Found, base: str, outlines: Outlines) -> Inspection:
    """Compare models without reading their weights, but for a sample of those that are here."""
    folders, checkpoints = opened.folders, opened.checkpoints
    found, unreadable = read_relations(checkpoints, base)
    here = {name: c for name, c in checkpoints.items() if not folders[name].outline}
    return Inspection(
        base,
        tuple(
            facts(
                name,
                folders[name],
                checkpoints,
                base,
                found.get(name),
                outlines.size(folders[name].reference),
            )
            for name in folders
        ),
        {
            name: judge(checkpoints, base, name, unreadable.get(name, ()))
            for name in checkpoints
            if name != base
        },
        find_nearest(here, base) if base in here else {},
        None,
        outlines.download(),
    )


def _translated(found: Inspection, outlines: Outlines) -> Inspection:
    """Name the hub's repositories instead of outlines' folders in all verdicts."""
    verdicts = {
        name: Verdict(
            tuple(map(outlines.said, verdict.faults)), tuple(map(outlines.said, verdict.warnings))
        )
        for name, verdict in found.verdicts.items()
    }
    return replace(found, verdicts=verdicts)


def _measured(
    found: Inspection, checkpoints: Mapping[str, Checkpoint], progress: Progress | None
) -> Inspection:
    """Read the weights of the base and of all sources that can be merged."""
    base = found.base
    kept = {
        name: checkpoint
        for name, checkpoint in checkpoints.items()
        if name == base or found.verdicts[name].mergeable
    }
    aligned = compare_aligned(kept, base, BASE_VOCABULARY)
    if aligned.faults:
        raise PreflightError(aligned.faults)
    measured = measure(aligned.checkpoints, base, progress)
    return replace(found, verdicts=with_numbers(found.verdicts, measured, base), weights=measured)


def read_relations(
    checkpoints: Mapping[str, Checkpoint], base: str
) -> tuple[dict[str, Relation], dict[str, tuple[str, ...]]]:
    """Return each model's vocabulary relation, and the faults of tokenizers that cannot be read."""
    found: dict[str, Relation] = {}
    unreadable: dict[str, tuple[str, ...]] = {}
    for name in checkpoints:
        pair = {base: checkpoints[base], name: checkpoints[name]}
        try:
            found[name] = relations(pair, base)[name]
        except PreflightError as error:
            if name == base:
                raise
            unreadable[name] = tuple(fault.message for fault in error.faults)
    return found, unreadable


def judge(
    checkpoints: Mapping[str, Checkpoint], base: str, name: str, unreadable: tuple[str, ...]
) -> Verdict:
    """Decide whether one source can be merged with the base."""
    if unreadable:
        return Verdict(unreadable, ())
    pair = {base: checkpoints[base], name: checkpoints[name]}
    compared = compare_aligned(pair, base, BASE_VOCABULARY)
    return Verdict(
        tuple(dict.fromkeys(fault.message for fault in compared.faults)),
        tuple(dict.fromkeys(compared.warnings)),
    )


def with_numbers(
    verdicts: Mapping[str, Verdict], measured: Weights, base: str
) -> dict[str, Verdict]:
    """Add faults for weights that are not finite; all sources have those of the base."""
    faults: dict[str, list[str]] = {}
    for found in measured.not_finite:
        n = found.nan + found.infinite
        faults.setdefault(found.model, []).append(
            f"{found.model}: {n} element(s) of {found.tensor} are not finite ({found.nan} NaN, "
            f"{found.infinite} infinite); download it again or leave the model out"
        )
    return {
        name: replace(
            verdict, faults=(*verdict.faults, *faults.get(base, ()), *faults.get(name, ()))
        )
        for name, verdict in verdicts.items()
    }


def facts(
    name: str,
    folder: ModelFolder,
    checkpoints: Mapping[str, Checkpoint],
    base: str,
    relation: Relation | None,
    download: int,
) -> ModelFacts:
    """Gather what is known about one model without reading its weights.

    `download` is how many bytes of it are not on this machine.
    """
    checkpoint = checkpoints[name]
    config = checkpoint.config
    dtypes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.n_elements
    layers = [p.layer for p in places(checkpoint.tensors).values() if p.layer is not None]
    own, bases = chat_template(checkpoint.assets), chat_template(checkpoints[base].assets)
    return ModelFacts(
        name,
        folder.reference,
        folder.revision,
        adapter_kind(folder.path),
        architecture(saved_config(checkpoint)),
        max(layers) + 1 if layers else 0,
        hidden_size(config),
        n_rows(checkpoint),
        sum(dtypes.values()),
        dict(sorted(dtypes.items(), key=lambda item: -item[1])),
        "unreadable" if relation is None else relation.kind,
        "its tokenizer cannot be read" if relation is None else str(relation),
        tied(checkpoint),
        "none" if own is None else "base's" if own == bases else "own",
        download,
    )


def architecture(config: Mapping[str, Any]) -> str:
    """Return the name of the architecture that a configuration describes."""
    named = config.get("architectures")
    if isinstance(named, list) and named:
        return str(named[0])
    return str(config.get("model_type", "unknown"))


def hidden_size(config: Mapping[str, Any]) -> int | None:
    """Return the width of the residual stream, whatever its key; None if it is not given."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, Mapping) else {}):
        for key in ("hidden_size", "n_embd", "d_model"):
            if type(place.get(key)) is int:
                return int(place[key])
    return None
