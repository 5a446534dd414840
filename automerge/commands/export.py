"""Write the models of a study as folders that load anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.commands.adapter_folder import AsAdapter, in_words, write_adapter_folder
from automerge.commands.model_folder import write_scored
from automerge.errors import Fault, PreflightError, StateError, WeightsDiffer
from automerge.evidence import EVIDENCE
from automerge.extensions import installed
from automerge.files.atomic import write_atomically
from automerge.files.known import is_known, known_reference, remember
from automerge.files.noise import is_noise
from automerge.recipe import BASE, Recipe
from automerge.report.card import FILE as CARD
from automerge.report.card import model_card
from automerge.session.resume import locate_models
from automerge.store.read_result import open_study
from automerge.store.record import aligned_by
from automerge.store.result import ADAPTERS, MODELS
from automerge.store.run_folder import check_own_files

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints import Checkpoint, ModelWatch
    from automerge.report.study import Study
    from automerge.store.record import StudyModel
    from automerge.store.result import StudyResult
    from automerge.trial import Trial


def export_models(
    run: Path,
    result: StudyResult,
    numbers: Sequence[int],
    console: Console | None,
    given: Mapping[str, Path] | None = None,
) -> None:
    """Write RUN/models/NAME for some trials.

    The study's models are where the study says, or in the folders `given` by name.

    A folder that exists was written whole, so it is left alone. Weights must be those that were
    scored on test items, bit for bit; on a machine that rounds differently, a difference is only
    reported.

    Raises:
        WeightsDiffer: the weights differ, although this machine rounds as the one that scored them.
        PreflightError: the disk refuses.
        ModelsChanged: a model is not what was scored.
    """
    check_own_files(run)
    trials = {number: result.by_number[number].trial for number in numbers}
    folders = {number: run / MODELS / trial.name for number, trial in trials.items()}
    if linked := [folder for folder in folders.values() if folder.is_symlink()]:
        raise StateError(f"{linked[0]} is a link; expected a folder of automerge's own: remove it")
    missing = [number for number, folder in folders.items() if not folder.is_dir()]
    if missing:
        _check_extensions(run, [trials[number].recipe for number in missing])
        checkpoints, references, watch = open_models(run, given)
        for number in missing:
            _write(run, trials[number], checkpoints, references, folders[number], watch, console)


def export_adapters(
    run: Path,
    result: StudyResult,
    numbers: Sequence[int],
    how: AsAdapter,
    console: Console | None,
    given: Mapping[str, Path] | None = None,
) -> dict[Path, str]:
    """Write RUN/adapters/NAME for some trials; return the folders, with what each holds in words.

    A folder that exists was written whole, so it is left alone. An adapter is added to the base
    without being rounded to the base's dtype, so its scores are the trial's but for rounding.

    Raises:
        PreflightError: a merge is no adapter, or the disk refuses.
        ModelsChanged: a model is not what was scored.
    """
    check_own_files(run)
    trials = [result.by_number[number].trial for number in numbers]
    folders = {run / ADAPTERS / how.name(trial.name): trial for trial in trials}
    if linked := [folder for folder in folders if folder.is_symlink()]:
        raise StateError(f"{linked[0]} is a link; expected a folder of automerge's own: remove it")
    said = dict.fromkeys(folders, "was there already")
    missing = {folder: trial for folder, trial in folders.items() if not folder.is_dir()}
    if missing:
        _check_extensions(run, [trial.recipe for trial in missing.values()])
        checkpoints, references, watch = open_models(run, given)
        with open_study(run) as store:
            base = next(m for m in store.study.current.models if m.name == BASE)
        pinned = str(checkpoints[BASE].path) if base.revision is None else base.pinned
        for folder, trial in missing.items():
            found = write_adapter_folder(
                trial.recipe,
                checkpoints,
                references,
                pinned,
                folder,
                how,
                watch,
                console,
                [run / EVIDENCE],
            )
            said[folder] = in_words(found)
    return said


def write_cards(study: Study) -> None:
    """Write the model cards of all models in RUN/models; folders that are links are left alone."""
    folders = {
        found.trial.number: study.run / found.model_dir
        for found in study.result.trials
        if found.model_dir is not None
    }
    summary = study.summary.including(list(folders))
    for number, folder in folders.items():
        if not folder.is_symlink():
            card = model_card(summary, number, folder.name, config=config_of(folder))
            write_atomically(folder / CARD, card)


def config_of(folder: Path) -> Mapping[str, Any]:
    """Return the content of an exported model's config.json; nothing where it was taken away."""
    from automerge.checkpoints.folder.files import CONFIG
    from automerge.checkpoints.reader import read_json

    return read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def _check_extensions(run: Path, recipes: Sequence[Recipe]) -> None:
    """Refuse recipes without the modules of their methods, and other versions of any module."""
    with open_study(run) as store:
        recorded = store.study.current.extensions
    methods = {method for recipe in recipes for method in recipe.all_methods}
    needed = {method.partition(":")[0].partition(".")[0] for method in methods if ":" in method}
    faults = []
    for name, digest in recorded.items():
        try:
            [found] = installed([name])
        except KeyError:
            if name in needed:
                problem = f"the study uses the extension {name!r}: pass --extension {name}"
                faults.append(Fault(problem))
            continue
        if found.digest != digest:
            faults.append(
                Fault(
                    f"the extension {name!r} has changed since the study began; restore the "
                    "version it was made with"
                )
            )
    if faults:
        raise PreflightError(faults)


def _write(
    run: Path,
    trial: Trial,
    checkpoints: Mapping[str, Checkpoint],
    references: Mapping[str, str],
    folder: Path,
    watch: ModelWatch,
    console: Console | None,
) -> None:
    """Write one model and compare its weights with those that were scored."""
    from automerge.machine.arithmetic import arithmetic

    with open_study(run) as store:
        known = store.scored_weights(trial.number)
    scored, there = known or (None, "")

    def warn() -> None:
        logger.warning(
            "%s is merged here on another kind of processor (%s) than it was scored on (%s): its "
            "weights differ from those in the last bits, and its scores may; export it there for "
            "the same bits",
            trial.name,
            arithmetic(),
            there,
        )

    try:
        write_scored(
            trial.recipe,
            checkpoints,
            references,
            folder,
            watch,
            console,
            scored,
            there,
            evidence=[run / EVIDENCE],
            warn=warn,
        )
    except WeightsDiffer as error:
        raise WeightsDiffer(
            f"trial {trial.number}: {error}, although this machine computes as the one that "
            "scored them did: a model's file or a version has changed, or memory is faulty; "
            "check the models, and nothing was written"
        ) from error


def open_models(
    run: Path, given: Mapping[str, Path] | None = None
) -> tuple[Mapping[str, Checkpoint], dict[str, str], ModelWatch]:
    """Open a study's models; return also how an exported recipe names them, and a watch on them.

    A name is a hub id with its commit, noise, a path from a folder in RUN/models, or
    `local:NAME@DIGEST` of a model that is not near the run folder.

    Every byte is read and compared first; raises ModelsChanged.
    """
    from automerge.checkpoints import ModelWatch, open_together

    with open_study(run) as store:
        models = store.study.current.models
    folders = locate_models(run, models, given)
    watch = ModelWatch(folders, {model.name: model.digest for model in models})
    watch.verify()
    for model in models:
        remember(folders[model.name], model.digest)
    references = {model.name: _reference(run, model) for model in models}
    return open_together(folders, BASE, aligned_by(models), [run / EVIDENCE]), references, watch


def _reference(run: Path, model: StudyModel) -> str:
    """Return how an exported recipe names a model: by content where a moved run has left it."""
    if model.reference.startswith(".") and not (run / model.reference).is_dir():
        return known_reference(model.name, model.digest)
    return from_export(model)


def from_export(model: StudyModel) -> str:
    """Return how a recipe in a folder in RUN/models names a model."""
    if model.revision is not None or is_noise(model.reference) or is_known(model.reference):
        return model.pinned
    return Path(os.path.normpath(Path("..", "..", model.reference))).as_posix()
