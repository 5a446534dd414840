"""`automerge score`: score a model folder on the test items of a study's task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from automerge.config import StudyConfig
from automerge.errors import ConfigError, Fault, StateError, nearest
from automerge.evaluation.table import PROPERTIES
from automerge.extensions import load_extensions
from automerge.objective import ItemScores, Objective, estimate
from automerge.session.panel import study_panel
from automerge.session.workers import scoring_dtype
from automerge.store.store import Store
from automerge.text.say import say
from automerge.trial import Items

if TYPE_CHECKING:
    from rich.console import Console


def score_command(
    folder: Path, run: Path, task: str, extensions: list[str], as_json: bool, console: Console
) -> None:
    """Score a model as the study did, and print the value with its standard error, or items.

    The task, its items and all settings are those in the run folder. Code in the run folder is run
    only if it is named as an extension.
    """
    with Store(run, write=False) as store:
        config = StudyConfig.from_plain(store.study.current.config)
        inputs = store.study.begun.inputs
    members, items = inputs.members, inputs.items.test.for_files()
    if task not in members:
        raise ConfigError(f"the study in {run} has no task {task!r}{nearest(task, list(members))}")
    _load(extensions, config)
    chosen = {leaf: items[leaf] for leaf in members[task]}
    objective, scores = _score(config, run, folder, task, inputs.dtype, chosen)
    if as_json:
        rows = zip(scores.items, scores.values, strict=True)
        plain = [{"task": leaf, "item": i, "score": value} for (leaf, i), value in rows]
        say(console, json.dumps(plain))
        return
    found = estimate(scores, objective.aggregation)
    text = f"{task}: {found.value:.6g} (standard error {found.stderr:.3g}, {found.n} test items)"
    say(console, text)


def _load(extensions: list[str], config: StudyConfig) -> None:
    """Import the modules that the user named, which are those the study was made with."""
    faults = [
        Fault(f"{loaded.name} is not what the study was made with; name the copy in its run folder")
        for loaded in load_extensions(extensions, Path.cwd())
        if config.extensions.get(loaded.name, loaded.digest) != loaded.digest
    ]
    if faults:
        raise ConfigError(faults)


def _score(
    config: StudyConfig, run: Path, folder: Path, task: str, stored: str, items: Items
) -> tuple[Objective, ItemScores]:
    from dataclasses import replace

    import torch

    from automerge.evaluation.base import Live
    from automerge.session.preflight import open_models
    from automerge.session.tasks import open_tasks
    from automerge.worker.tokenizer import load_tokenizer
    from automerge.worker.worker import choose_device, load_model

    panel = study_panel(config)
    own = tuple(e for e in panel.entries if e.name == task and e.evaluator != PROPERTIES)
    tasks = open_tasks(replace(panel, entries=own), run, lambda _: None)
    path = open_models({"model": str(folder)}, "model", lambda _: None).folders["model"].path
    model = load_model(path, path, getattr(torch, scoring_dtype(config, stored)))
    model.to(choose_device(config.evaluation.device)).eval().requires_grad_(False)
    live = Live(model, load_tokenizer(path), _no_distance, _no_base)
    scored = tasks.attach(live).score(items)
    return tasks.objectives[0], scored.scores[task]


def _no_distance() -> float:
    raise StateError("a model folder alone has no distance to a base")


def _no_base() -> NoReturn:
    raise StateError(
        "a model folder alone has no base to compare it with: kl_to_base is measured by the search"
    )
