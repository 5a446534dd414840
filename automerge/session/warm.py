"""A warm start: the merges on the front of an earlier study, made of this study's models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from automerge import pareto
from automerge.errors import ConfigError, Fault, Location
from automerge.methods import METHODS, check_recipe
from automerge.objective import estimates, goals, losses
from automerge.recipe import BASE, Recipe, RecipeSource
from automerge.store.published import read_published
from automerge.store.read_result import open_study
from automerge.store.record import StudyModel
from automerge.store.store import Store
from automerge.trial import BASELINES, Measured, Trial


@dataclass(frozen=True)
class Warm:
    """What carries over from an earlier study.

    Attributes:
        recipes: by the names their trials get.
        notes: what carries over and what does not, one sentence each.
    """

    recipes: Mapping[str, Recipe]
    notes: tuple[str, ...]


def warm_start(
    run: Path, digests: Mapping[str, str], limit: int, location: Location | None = None
) -> Warm:
    """Read the front of an earlier study, finished or not, or a published merge.

    Models are the same if their files and alignments are, whatever they are called. Only recipes
    carry over, no scores: this study measures them on its own items.

    Args:
        run: the earlier study's run folder, or a `reproduce.json`.
        digests: of this study's base and sources, aligned as they are, by name.
        limit: how many recipes are taken at most, evenly spaced on the front.
        location: where the configuration names the study, for errors.

    Raises:
        StateError: the folder contains no study.
        ConfigError: none of the front's merges can be made of this study's models.
    """
    before, trials = _published(run) if run.is_file() else _study(run)
    by_digest = {digest: name for name, digest in reversed(list(digests.items()))}
    names = {old: by_digest[digest] for old, digest in before.items() if digest in by_digest}
    names[BASE] = BASE  # another base may still bear the same task vectors
    carried: dict[str, Recipe] = {}
    without: list[str] = []
    for trial in trials:
        recipe = _renamed(trial.recipe, before, names)
        if recipe is not None and not check_recipe(recipe, METHODS):
            carried[f"warm-{trial.name}"] = recipe
        else:
            without.append(trial.name)
    if not carried:
        message = f"warm_start: {_why_nothing(run, trials)}; remove warm_start, or name another"
        raise ConfigError([Fault(message, location)])
    kept = _spaced(list(carried), limit)
    count = f"{len(kept)} of the {len(trials)} merges on the front of {run}"
    notes = [f"warm_start: {count} are measured again here, before the sampler's first proposal"]
    if without:
        listed = ", ".join(without)
        notes.append(f"warm_start: {listed} cannot be made of this study's models and methods")
    missing = [name for name in before if name not in names]
    if missing:
        listed = ", ".join(missing)
        notes.append(f"warm_start: merges of {listed}, which this study lacks, carry over without")
    if before[BASE] != digests[BASE]:
        notes.append("warm_start: the base is another; task vectors are taken from this study's")
    return Warm({name: carried[name] for name in kept}, tuple(notes))


def _study(run: Path) -> tuple[dict[str, str], list[Trial]]:
    """Return what an earlier study's models are, and the merges on its front."""
    with open_study(run) as store:
        return digests_of(store.study.current.models), _front(store)


def digests_of(models: Sequence[StudyModel]) -> dict[str, str]:
    """Return what tells models apart, by name: their digests, and those of their alignments."""
    return {model.name: f"{model.digest} {model.align}".rstrip() for model in models}


def _published(path: Path) -> tuple[dict[str, str], list[Trial]]:
    """Return what a published merge's models are, and the merge."""
    found = read_published(path)
    digests = digests_of(found.models)
    if BASE not in digests:
        raise ConfigError(f"{path} names no model {BASE!r}")
    return digests, [Trial(0, found.recipe, "recipe", found.name)]


def _front(store: Store) -> list[Trial]:
    """Return the merges on the front; before selection, those nondominated on search items."""
    study = store.study
    trials = {trial.number: trial for trial in store.trials()}
    numbers: Sequence[int] = study.decided.front or ()
    if not numbers:
        objectives = goals(study.begun.inputs.objectives)
        rows = {
            number: losses(objectives, estimates(objectives, outcome.scores))
            for number, outcome in store.outcomes("search").items()
            if isinstance(outcome, Measured) and not outcome.left_out
        }
        keep = pareto.nondominated(np.array(list(rows.values()))) if rows else ()
        numbers = [number for number, kept in zip(rows, keep, strict=True) if kept]
    return [trials[number] for number in numbers if trials[number].origin not in BASELINES]


def _renamed(recipe: Recipe, before: Iterable[str], names: Mapping[str, str]) -> Recipe | None:
    """Return a recipe over this study's models, without those it lacks; None where that is none.

    Args:
        recipe: of the earlier study.
        before: the earlier study's models.
        names: their names here, of those that are here too.
    """
    sources = tuple(
        RecipeSource(names[source.name], source.knobs)
        for source in recipe.sources
        if source.name in names
    )
    vocabulary = recipe.vocabulary
    needed = {vocabulary.tokenizer, vocabulary.chat_template} & set(before)
    if recipe.slices:
        needed |= {source.name for source in recipe.sources}
    if recipe.mixture is not None:
        needed |= set(recipe.mixture.experts)
    if not sources or needed - set(names):
        return None
    tokenizer, template = vocabulary.tokenizer, vocabulary.chat_template
    vocabulary = replace(
        vocabulary,
        tokenizer=names.get(tokenizer, tokenizer),
        chat_template=None if template is None else names.get(template, template),
    )
    slices = tuple(
        replace(
            piece,
            layers={names[name]: span for name, span in piece.layers.items()},
            sources={names[name]: knobs for name, knobs in piece.sources.items()},
        )
        for piece in recipe.slices
    )
    evidence = {
        kind: {names[name]: digest for name, digest in digests.items() if name in names}
        for kind, digests in recipe.evidence.items()
    }
    mixture = None if recipe.mixture is None else recipe.mixture.renamed(names)
    return replace(
        recipe,
        sources=sources,
        vocabulary=vocabulary,
        slices=slices,
        evidence=evidence,
        mixture=mixture,
    )


def _spaced(names: Sequence[str], limit: int) -> list[str]:
    """Return at most `limit` names, evenly spaced."""
    if len(names) <= limit:
        return list(names)
    places = np.linspace(0, len(names) - 1, limit).round().astype(int)
    return [names[place] for place in dict.fromkeys(places.tolist())]


def _why_nothing(run: Path, trials: Sequence[Trial]) -> str:
    if not trials:
        return f"the front of {run} holds no merge"
    return f"none of the {len(trials)} merges on the front of {run} can be made of these models"
