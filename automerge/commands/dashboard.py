"""`automerge dashboard`: a study as an Optuna storage, shown by optuna-dashboard here."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.errors import PreflightError
from automerge.objective import estimates, searched
from automerge.recipe import Value
from automerge.samplers.optuna import quiet
from automerge.session.extras import install
from automerge.store.read_result import open_study, study_objectives
from automerge.store.store import Store
from automerge.text.redaction import redact
from automerge.trial import PARTS, Failed, Measured, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

FILE = "optuna.journal"
GROWN = "automerge:recorded"
"""The study attribute that records how much of the store was exported."""
PER_BYTE = 100
"""A storage has fewer bytes for each byte of the store."""
LOOPBACK = "127.0.0.1"
INSTALL = install("dashboard")


def write_optuna_storage(run: Path) -> Path:
    """Write RUN/optuna.journal, an Optuna journal storage with one study; return its path.

    Trial numbers are the store's. Values are those on search items; select and test values,
    recipes and failures are user attributes. The file appears whole or not at all, and is rewritten
    only when the study has grown. It is an export: nothing reads it back.

    Raises PreflightError where Optuna is not installed, or the file cannot be written.
    """
    if find_spec("optuna") is None:
        raise PreflightError(f"optuna is not installed, whose format this is: {INSTALL}")
    with open_study(run) as store, quiet():
        path = run / FILE
        name = store.study.current.name
        parts = (len(store.outcomes(part)) for part in PARTS[1:])
        recorded = [name, store.counts(), *parts]
        if _recorded(path, PER_BYTE * store.path.stat().st_size) == recorded:
            return path
        draft = path.with_name(f".{FILE}.{os.getpid()}")
        try:
            _write(draft, name, store, recorded)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise PreflightError(f"cannot write {path}: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)
    return path


def serve(path: Path, port: int) -> None:
    """Show a storage in optuna-dashboard, to this machine only, until it is stopped.

    Raises PreflightError where optuna-dashboard is not installed.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise PreflightError(
            f"optuna-dashboard is not installed ({INSTALL}); {path} is written, and "
            f"`optuna-dashboard {path}` shows it wherever that is installed"
        ) from error
    run_server(_storage(path), host=LOOPBACK, port=port)


def _storage(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _recorded(path: Path, most: int) -> object:
    """Return how much of the store a complete storage holds, as its last line says; else None.

    Optuna reads a storage into memory: a file of more than `most` bytes is not ours.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        before, _, last = content.removesuffix(b"\n").rpartition(b"\n")
        written = json.loads(last)["user_attr"][GROWN]
        whole = len(content) <= most and written["digest"] == sha256(before + b"\n").hexdigest()
        return written["recorded"] if whole else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path, name: str, store: Store, recorded: object) -> None:
    import optuna

    objectives = searched(study_objectives(store))
    study = optuna.create_study(
        storage=_storage(path),
        study_name=name,
        directions=[objective.direction for objective in objectives],
    )
    study.set_metric_names([objective.name for objective in objectives])
    study.add_trials(list(_trials(store)))
    digest = sha256(path.read_bytes()).hexdigest()
    study.set_user_attr(GROWN, {"recorded": recorded, "digest": digest})


def _trials(store: Store) -> Iterator[FrozenTrial]:
    objectives = study_objectives(store)
    trials = store.trials()
    outcomes = {part: store.outcomes(part) for part in PARTS}
    duplicates = store.duplicates()
    times = store.times()
    distributions = _distributions(trials)
    for trial in trials:
        number = duplicates.get(trial.number, trial.number)
        attributes: dict[str, Any] = {
            "name": trial.name,
            "origin": trial.origin,
            "recipe_id": trial.recipe.id,
            "recipe": trial.recipe.plain(),
        }
        if number != trial.number:
            attributes["duplicate_of"] = number
        values: list[float] | None = None
        failed = excluded = False
        for part in PARTS:
            outcome = outcomes[part].get(number)
            if isinstance(outcome, Failed):
                attributes[f"{part} failed"] = redact(f"{outcome.kind}: {outcome.reason}")
                failed |= part == "search"
            elif isinstance(outcome, Measured):
                own = objectives if part == "test" else searched(objectives)
                found = {name: e.value for name, e in estimates(own, outcome.scores).items()}
                if outcome.left_out:
                    excluded = True
                    attributes["not measured"] = ", ".join(outcome.left_out)
                elif part == "search":
                    values = list(found.values())
                else:
                    attributes |= {f"{part} {name}": value for name, value in found.items()}
        yield _frozen(
            trial, values, failed, excluded, attributes, distributions, times[trial.number]
        )


def _frozen(
    trial: Trial,
    values: list[float] | None,
    failed: bool,
    excluded: bool,
    attributes: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    times: tuple[float, float | None],
) -> FrozenTrial:
    import optuna
    from optuna.trial import TrialState

    if values is not None and not all(map(math.isfinite, values)):
        values, failed = None, True
    state = TrialState.FAIL if failed else TrialState.RUNNING
    state = TrialState.PRUNED if excluded else state
    params = dict(trial.params or {})
    frozen = optuna.create_trial(
        state=state if values is None else TrialState.COMPLETE,
        values=values,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs=dict(attributes),
    )
    asked, told = times
    frozen.datetime_start = datetime.fromtimestamp(asked)
    if frozen.state.is_finished():
        # A clock that was set back must not make a trial end before it began.
        frozen.datetime_complete = datetime.fromtimestamp(max(asked, told or asked))
    return frozen


def _distributions(trials: Iterable[Trial]) -> dict[str, BaseDistribution]:
    """Return each parameter's observed domain: a range of numbers, or a set of choices."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    seen: dict[str, dict[Value, None]] = {}
    for trial in trials:
        for name, value in (trial.params or {}).items():
            seen.setdefault(name, {})[value] = None
    found: dict[str, BaseDistribution] = {}
    for name, values in seen.items():
        numbers = [v for v in values if not isinstance(v, bool | str)]
        if len(numbers) == len(values):
            found[name] = FloatDistribution(min(numbers), max(numbers))
        else:
            found[name] = CategoricalDistribution(sorted(values, key=str))
    return found
