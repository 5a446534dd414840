"""A study's store → what reports, status and exports read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from automerge import pareto
from automerge.errors import StateError
from automerge.objective import Objective, estimates, goals, losses
from automerge.store.result import (
    MODELS,
    Provenance,
    State,
    StudyResult,
    TrialResult,
    count,
)
from automerge.store.run_folder import is_running
from automerge.store.store import Store, exists
from automerge.store.versions import all_versions, version_warnings
from automerge.trial import (
    BASELINES,
    BATCHED,
    GENERATED,
    NO_ROOM,
    PARTS,
    Failed,
    Measured,
    Outcome,
    Part,
)


def open_study(run: Path) -> Store:
    """Open a study for reading.

    Raises:
        StateError: the folder contains no study, or one that is damaged or of another version.
    """
    if not exists(run):
        raise StateError(f"{run} contains no study; give the folder that `automerge search` named")
    return Store(run, write=False)


def study_objectives(store: Store) -> tuple[Objective, ...]:
    """Return the objectives that the study was started with."""
    return store.study.begun.inputs.objectives


def study_state(store: Store, run: Path) -> State:
    """Return whether a study is running, was interrupted, has failed or is finished."""
    if is_running(run):
        return "running"
    return store.study.current.state


def study_result(run: Path, store: Store, *, state: State | None = None) -> StudyResult:
    """Return everything that a report shows, as values.

    Args:
        run: the run folder.
        store: the study's store.
        state: the study's state, if it is known; else it is read from the store.
    """
    study = store.study
    begun, current, decided, inputs = study.begun, study.current, study.decided, study.begun.inputs
    objectives = inputs.objectives
    trials = store.trials()
    duplicates = store.duplicates()
    outcomes: dict[int, dict[Part, Outcome]] = {trial.number: {} for trial in trials}
    for part in PARTS:
        for number, outcome in store.each_outcome(part):
            outcomes[number][part] = _clustered(outcome, inputs.clusters)
    explained = store.explained()
    front = decided.front or ()
    numbers = {trial.origin: trial.number for trial in reversed(trials)}
    return StudyResult(
        study=current.name,
        state=state or study_state(store, run),
        objectives=objectives,
        trials=tuple(
            TrialResult(
                trial,
                outcomes[trial.number],
                decided.believed.get(trial.number, {}),
                model_dir=_model_dir(run, trial.name),
                explained=explained.get(trial.number, ()),
            )
            for trial in trials
            if trial.number not in duplicates
        ),
        front=front,
        knee=knee(store, objectives, [n for n in front if trials[n].origin not in BASELINES]),
        base=numbers.get("base"),
        parents=tuple(t.number for t in trials if t.origin == "source"),
        uniform=numbers.get("uniform"),
        sources=current.sources,
        n_layers=inputs.n_layers,
        sampler=begun.sampler,
        seed=current.seed,
        budget=current.budget,
        max_items=current.max_items,
        max_time=current.max_time,
        patience=current.patience,
        constraints=current.constraints,
        openings=len(decided.frozen),
        smooth=inputs.smooth,
        generated=generated_by(found for own in outcomes.values() for found in own.values()),
        batched=_said(BATCHED, (found for own in outcomes.values() for found in own.values())),
        provenance=Provenance(
            versions=all_versions(store),
            models=begun.origins,
            tasks=inputs.tasks,
            machine=begun.machine,
            started=begun.started,
            finished=current.finished,
            command=begun.command,
            score_commands=inputs.score_commands,
        ),
        warnings=(
            *inputs.warnings,
            *decided.remarks,
            *version_warnings(store),
            *arithmetic_warnings(store),
            *_slope_warnings(outcomes.values()),
            *_left_out_warnings(outcomes.values()),
        ),
    )


def arithmetic_warnings(store: Store) -> tuple[str, ...]:
    """Return a warning if scores come from machines of several kinds."""
    kinds = store.arithmetics()
    if len(kinds) < 2:
        return ()
    return (
        f"scores come from {len(kinds)} kinds of processors or libraries, which round differently "
        f"({', '.join(kinds)}): the same model may differ in its last bits, and so in its scores, "
        "between them; --deterministic does not hold across them, nor do small differences",
    )


def generated_by(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """Return in which ways answers were generated, and why; empty if none were."""
    return _said(GENERATED, outcomes)


def _said(beginning: str, outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """Return what notes with a beginning say after it, each text once."""
    measured = [found for found in outcomes if isinstance(found, Measured)]
    said = {note: None for found in measured for note in found.notes if note.startswith(beginning)}
    return tuple(note.removeprefix(beginning) for note in said)


def _slope_warnings(outcomes: Iterable[Mapping[Part, Outcome]]) -> tuple[str, ...]:
    measured = [found for own in outcomes if isinstance(found := own.get("search"), Measured)]
    n = sum(NO_ROOM in found.notes for found in measured)
    if not n:
        return ()
    return (
        f"slopes did not fit into memory: {count(n, 'trial')} that were to have them were "
        "measured without",
    )


def _left_out_warnings(outcomes: Iterable[Mapping[Part, Outcome]]) -> tuple[str, ...]:
    measured = [found for own in outcomes if isinstance(found := own.get("search"), Measured)]
    left_out = [found.left_out for found in measured if found.left_out]
    if not left_out:
        return ()
    names = ", ".join(dict.fromkeys(name for own in left_out for name in own))
    return (
        f"{count(len(left_out), 'trial')} surely missed a bound on a cheaper objective and so were "
        f"not measured on {names} (search.cheap_first); none of them can be on the front",
    )


def _clustered(outcome: Outcome, clusters: Mapping[str, Sequence[int]]) -> Outcome:
    if isinstance(outcome, Failed):
        return outcome
    scores = {name: own.clustered(clusters) for name, own in outcome.scores.items()}
    return replace(outcome, scores=scores)


def knee(store: Store, objectives: Iterable[Objective], numbers: list[int]) -> int | None:
    """Return the trial with the best trade-off on select items among the given ones, if any."""
    objectives = goals(objectives)
    outcomes = store.outcomes("select")
    measured = {n: o for n in numbers if isinstance(o := outcomes.get(n), Measured)}
    rows = [losses(objectives, estimates(objectives, o.scores)) for o in measured.values()]
    at = pareto.knee(np.array(rows)) if rows else None
    return None if at is None else list(measured)[at]


def with_exported(result: StudyResult, run: Path) -> StudyResult:
    """Return the same study, updated with the models that are exported by now."""
    trials = (replace(t, model_dir=_model_dir(run, t.trial.name)) for t in result.trials)
    return replace(result, trials=tuple(trials))


def _model_dir(run: Path, name: str) -> str | None:
    return f"{MODELS}/{name}" if (run / MODELS / name / "config.json").is_file() else None
