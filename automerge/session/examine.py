"""Examine what a study is made from before it begins: models, tasks and their items."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.config import StudyConfig
from automerge.errors import Fault, PreflightError
from automerge.expert_groups import EVIDENCE as ROUTING
from automerge.files.known import remember
from automerge.items import POOL_SHARES, Sealed, StudyItems
from automerge.recipe import BASE, CALIBRATED_BY
from automerge.session.folder import COPIES, SAMPLES
from automerge.session.groups import group_objectives, with_smooth_groups
from automerge.session.panel import study_panel
from automerge.session.resume import reference_of
from automerge.session.workers import scoring_dtype
from automerge.store.record import Inputs, StudyModel
from automerge.store.result import MODEL
from automerge.trial import PARTS, Part

if TYPE_CHECKING:
    from automerge.checkpoints import ModelWatch
    from automerge.checkpoints.outline import Download
    from automerge.checkpoints.symmetries.kept import Reading
    from automerge.config.sections import EvidenceText
    from automerge.evaluation.base import OpenTasks
    from automerge.session.gathering import GatherSettings
    from automerge.session.preflight import Models


OF_ALL = (CALIBRATED_BY, ROUTING)
"""Kinds of evidence that are gathered from the base, too: some methods merge it like a source."""


@dataclass(frozen=True)
class Examined:
    """What preflight found: the study's inputs, open tasks, hashed models and their folders."""

    inputs: Inputs
    models: tuple[StudyModel, ...]
    folders: Mapping[str, Path]
    tasks: OpenTasks
    watch: ModelWatch


def look(
    config: StudyConfig, run: Path, scratch: Path, seen: Callable[[Models], None] = lambda _: None
) -> tuple[Models | Download, OpenTasks]:
    """Open a study's models and tasks, and refuse what can be, before any weights are downloaded.

    Args:
        config: the study.
        run: its folder, which may have copies of the tasks.
        scratch: a folder for copies of the tasks if it has none.
        seen: is shown the models, which may be outlines without weights.

    Returns:
        The models, or what has to be downloaded first; and the tasks.

    Raises:
        PreflightError: with every fault found.
    """
    from automerge.session import preflight
    from automerge.session.tasks import LiveKind, live_kind, open_tasks, tasks_on

    live: LiveKind | None = None

    def check(models: Models) -> None:
        nonlocal live
        live = live_kind(models)
        recipes = [named.recipe for named in config.recipes]
        if wrong := preflight.structure_faults(recipes, models, config.locate):
            raise PreflightError(wrong)
        if config.export == "adapter":
            preflight.check_adapters(models, config.trained, config.adapter_rank, config.locate)
        if config.search.layers.mixture is not None:
            preflight.check_mixtures(models, config.locate)
        if config.search.layers.experts is not None:
            preflight.check_experts(models, config.search.layers.experts.count, config.locate)
        if config.search.layers.scale != 1:
            preflight.check_scales(models, config.locate)
        layers = config.search.layers
        if layers.drop or layers.repeat or layers.rounds:
            preflight.check_stack(models, config.locate)
        seen(models)

    faults: list[Fault] = []
    models = tasks = None
    try:
        models = preflight.look_ahead(
            config.references,
            BASE,
            config.locate,
            check=check,
            align=config.align,
            reading=_reading(config),
        )
    except PreflightError as error:
        faults += error.faults
    home = run if any((run / name).is_dir() for name in COPIES) else scratch
    panel = study_panel(config)
    try:
        tasks = open_tasks(panel, home, config.locate)
        if live is not None:
            tasks = tasks_on(live, tasks, panel, config.locate)
    except PreflightError as error:
        faults += error.faults
    if faults or models is None or tasks is None:
        raise PreflightError(faults)
    group_objectives(config, tasks)
    return models, tasks


def examine(config: StudyConfig, run: Path, note: Callable[[str], None]) -> Examined:
    """Open models and tasks, compare them, and cut the items; `note` is told what is downloaded."""
    from automerge.checkpoints import ModelWatch, alignments, sampled_digest
    from automerge.checkpoints.folder.card import licence_of
    from automerge.evaluation.base import GeneratingTasks, SmoothTasks
    from automerge.evaluation.split import SplitPlan
    from automerge.session import preflight
    from automerge.session.downloading import in_words
    from automerge.session.tasks import cut

    with tempfile.TemporaryDirectory() as scratch:
        models, tasks = look(config, run, Path(scratch))
        if not isinstance(models, preflight.Models):
            note(f"downloading {in_words(models)}")
            models = preflight.find_and_compare(
                config.references,
                BASE,
                config.locate,
                align=config.align,
                reading=_reading(config),
            )
        folders = {name: folder.path for name, folder in models.folders.items()}
        watch = ModelWatch.hashing(folders)
        evaluation, shares = config.evaluation, config.split
        caps: dict[Part, int] = {}
        if isinstance(evaluation.items_per_candidate, int):
            caps["search"] = POOL_SHARES * evaluation.items_per_candidate
        caps |= {"select": shares.max_select} if shares.max_select else {}
        caps |= {"test": shares.max_test} if shares.max_test else {}
        fractions = {part: getattr(shares, part) for part in PARTS}
        held_out = {task.name for task in config.tasks if task.held_out}
        split = cut(tasks, SplitPlan(fractions, caps), held_out)
        dtype = scoring_dtype(config, models.dtype)
        groups = group_objectives(config, tasks)
        inputs = Inputs(
            objectives=(
                *(replace(o, held_out=o.name in held_out) for o in tasks.objectives),
                *groups,
            ),
            items=StudyItems(
                split.items("search"), split.items("select"), Sealed(split.items("test"))
            ),
            members={name: tuple(leaves) for name, leaves in tasks.members.items()},
            split=split.digest,
            clusters=split.clusters,
            n_layers=models.n_layers,
            dtype=models.dtype,
            tasks=dict(tasks.digests()),
            evidence=_evidence(config, models),
            smooth=with_smooth_groups(
                tasks.smooth if isinstance(tasks, SmoothTasks) else (), groups
            ),
            generated=tuple(tasks.generated) if isinstance(tasks, GeneratingTasks) else (),
            warnings=(*models.warnings, *split.notes, *tasks.warnings(split)),
            score_commands=tuple(
                tuple(command) for command in tasks.commands(Path(MODEL), Path(SAMPLES), dtype)
            ),
        )
        aligned = alignments(models.checkpoints)
        found = tuple(
            StudyModel(
                name=name,
                reference=reference_of(name, folder, watch.digests[name], run),
                revision=folder.revision,
                digest=watch.digests[name],
                sample=sampled_digest(folder.path),
                license=licence_of(folder.path),
                align=aligned.get(name, ""),
            )
            for name, folder in models.folders.items()
        )
    for name, folder in folders.items():
        remember(folder, watch.digests[name])
    return Examined(inputs, found, folders, tasks, watch)


def _reading(config: StudyConfig) -> Reading | None:
    """Return what aligns sources by activations; None without a text."""
    from automerge.session.matching import TextReading

    text = config.evidence
    return None if text is None else TextReading(text.texts, _settings(config, text))


def _settings(config: StudyConfig, text: EvidenceText) -> GatherSettings:
    from automerge.session.gathering import GatherSettings

    return GatherSettings(text.tokens, text.length, config.evaluation.device)


def _evidence(config: StudyConfig, models: Models) -> dict[str, dict[str, str]]:
    """Gather the evidence that the searched methods need; return digests by kind and source."""
    from automerge.checkpoints import alignments
    from automerge.session.gathering import gather

    kinds = config.kinds_of_evidence
    if config.evidence is None or not kinds:
        return {}
    folders = {name: folder.path for name, folder in models.folders.items()}
    settings = _settings(config, config.evidence)
    texts = config.evidence.texts
    aligned = alignments(models.checkpoints)
    found = {
        kind: gather(
            folders,
            (BASE, *config.trained) if kind in OF_ALL else config.trained,
            kind,
            texts,
            settings,
            aligned=aligned,
        )
        for kind in kinds
    }
    return {
        kind: {name: file.digest for name, file in files.items()} for kind, files in found.items()
    }
