"""What Optuna reads of a study."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from automerge import cli
from automerge.commands.dashboard import FILE, write_optuna_storage
from automerge.objective import estimates
from automerge.store.store import Store
from automerge.trial import Failed, Job, Measured, Outcome, Trial
from tests.studies import toy_study
from tests.toy import OBJECTIVES, ToyWorker, fails

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def load(run: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(run / FILE))
    storage = optuna.storages.JournalStorage(backend)
    [summary] = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_study(tmp_path / "run", worker=ToyWorker(fail=fails(7)))


def test_optuna_reads_the_trials_the_store_holds(run: Path) -> None:
    assert write_optuna_storage(run) == run / FILE
    study = load(run)
    assert study.study_name == "toy"
    assert [d.name.lower() for d in study.directions] == [o.direction for o in OBJECTIVES]
    assert study.metric_names == [o.name for o in OBJECTIVES]
    with Store(run, write=False) as store:
        trials, search, test = store.trials(), store.outcomes("search"), store.outcomes("test")
        duplicates = store.duplicates()
    assert [t.number for t in study.trials] == [t.number for t in trials]
    for theirs, ours in zip(study.trials, trials, strict=True):
        number = duplicates.get(ours.number, ours.number)
        assert theirs.params == dict(ours.params or {})
        assert theirs.user_attrs["recipe_id"] == ours.recipe.id
        outcome = search[number]
        if isinstance(outcome, Failed):
            assert theirs.state is TrialState.FAIL
            assert "made to fail" in theirs.user_attrs["search failed"]
            continue
        found = estimates(OBJECTIVES, outcome.scores)
        assert theirs.values == [found[o.name].value for o in OBJECTIVES]
        if isinstance(tested := test.get(number), Measured):
            value = estimates(OBJECTIVES, tested.scores)["first"].value
            assert theirs.user_attrs["test first"] == value
    assert study.best_trials


def test_a_storage_is_written_anew_only_when_the_study_has_grown(run: Path) -> None:
    path = write_optuna_storage(run)
    before = path.stat().st_ino
    assert write_optuna_storage(run).stat().st_ino == before
    toy_study(run, 20, worker=ToyWorker(fail=fails(7)))
    write_optuna_storage(run)
    with Store(run, write=False) as store:
        assert len(load(run).trials) == len(store.trials()) >= 20
    path.write_bytes(path.read_bytes()[:-40])  # a torn copy is no storage
    write_optuna_storage(run)
    assert len(load(run).trials) >= 20


@pytest.mark.parametrize(
    "planted",
    [
        lambda ours: ours.replace(b"toy", b"toi", 1),
        lambda ours: ours[: len(ours) // 2],
        lambda ours: ours + b"{}\n",
        lambda ours: b"[" * 100_000,
        lambda ours: b'{"user_attr": []}',
        lambda ours: b"\xff\n" * 1000,
        lambda ours: b"",
    ],
)
def test_a_storage_of_others_is_replaced(run: Path, planted: Callable[[bytes], bytes]) -> None:
    path = write_optuna_storage(run)
    path.write_bytes(planted(path.read_bytes()))
    before = path.stat().st_ino
    assert write_optuna_storage(run).stat().st_ino != before
    assert load(run).trials


def test_a_huge_storage_is_replaced_without_being_read_whole(run: Path) -> None:
    path = write_optuna_storage(run)
    ours, whole = path.stat().st_ino, path.stat().st_size
    os.truncate(path, 2**40)
    assert write_optuna_storage(run).stat().st_ino != ours
    assert path.stat().st_size == pytest.approx(whole, rel=0.1)


def test_a_trial_that_runs_is_shown_running_and_a_clock_set_back_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9, 0, -3600))
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: float(next(clock)))
        run = toy_study(tmp_path / "run")
    with Store(run, write=True) as store:
        last = store.trials()[-1]
        store.ask(Trial(last.number + 1, last.recipe, "sampler", "more", last.params))
    write_optuna_storage(run)
    study = load(run)
    assert study.trials[-1].state is TrialState.RUNNING
    for trial in study.trials[:-1]:
        assert isinstance(trial.datetime_start, datetime)
        assert trial.datetime_complete is not None
        assert trial.datetime_start <= trial.datetime_complete


def test_nothing_is_left_of_a_storage_that_could_not_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Exception, match="No space left"):
        write_optuna_storage(run)
    assert [p.name for p in run.iterdir() if "optuna" in p.name] == []


def test_failures_reach_optuna_without_secrets(tmp_path: Path) -> None:
    def secret(job: Job) -> Outcome | None:
        if job.trial == 5:
            return Failed("error", "401 for hf_abcdefghijklmnopqrstuvwx")
        return None

    run = toy_study(tmp_path / "run", 8, worker=ToyWorker(fail=secret))
    assert b"hf_abc" not in write_optuna_storage(run).read_bytes()


def test_the_command_only_writes_when_told_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dashboard", str(run), "--no-serve"])
    assert ended.value.code == 0
    assert str(run / FILE) in capsys.readouterr().out.replace("\n", "")


STAND_IN = """
def run_server(storage, host, port):
    print(host, port, [s.study_name for s in storage.get_all_studies()])
"""


def test_the_dashboard_is_bound_to_this_machine(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "optuna_dashboard.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["dashboard", str(run), "--port", "8099"])
    sys.modules.pop("optuna_dashboard")
    assert ended.value.code == 0
    assert "127.0.0.1 8099 ['toy']" in capsys.readouterr().out


@pytest.mark.skipif(
    importlib.util.find_spec("optuna_dashboard") is not None, reason="optuna-dashboard is there"
)
def test_without_optuna_dashboard_the_command_to_install_it_is_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dashboard", str(run)])
    assert ended.value.code == 3
    assert "pip install" in capsys.readouterr().err
    assert (run / FILE).is_file()
