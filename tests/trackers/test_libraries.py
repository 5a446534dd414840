"""The trackers' own libraries, without a network: what was told can be read back with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from automerge.trackers.table import TRACKERS

SETTINGS = {"seed": 7, "split.test": 0.25, "name of it": "a|b", "deterministic": True}


def reported(name: str, run: Path) -> None:
    """Report a run of three steps."""
    run.mkdir(exist_ok=True)
    tracker = TRACKERS[name].factory()
    tracker.begin("night", run, SETTINGS)
    for step in (1, 2, 3):
        tracker.log(step, {"search/acc": 0.1 * step, "search/done": step})
    tracker.finish("finished", {"take": "trial-3", "take/acc": 0.25})


def needs(name: str) -> None:
    pytest.importorskip(TRACKERS[name].module, reason=f"needs automerge-llm[{name}]")


@pytest.mark.filterwarnings("default")
def test_tensorboard_reads_its_event_files(tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reported("tensorboard", tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    points = read.Scalars("search/acc")
    assert [p.step for p in points] == [1, 2, 3]
    assert [p.value for p in points] == pytest.approx([0.1, 0.2, 0.3])
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode()
             for tag in read.Tags()["tensors"]}  # fmt: skip
    assert "| seed | 7 |" in texts["settings/text_summary"]
    assert "| take | trial-3 |" in texts["summary/text_summary"]


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_mlflow_reads_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    reported("mlflow", tmp_path)
    from automerge.trackers.mlflow import store_uri

    client = MlflowClient(store_uri(tmp_path))
    experiment = client.get_experiment_by_name("automerge")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("night", "FINISHED")
    assert run.data.params["split.test"] == "0.25"
    assert run.data.tags["take"] == "trial-3"
    history = client.get_metric_history(run.info.run_id, "search/acc")
    assert [(m.step, round(m.value, 6)) for m in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    reported("wandb", tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = file.read_bytes()
    for text in (b"search/acc", b"take/acc", b"trial-3", b"split.test"):
        assert text in data


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_trackio_reads_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_PROJECT", f"automerge-{os.getpid()}")
    needs("trackio")  # it reads its environment when it is imported
    reported("trackio", tmp_path / "run")
    import sqlite3

    (file,) = (tmp_path / "trackio").glob("**/*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    assert [step for step, _ in rows][:3] == [1, 2, 3]
    assert b"search/acc" in rows[0][1]
    assert b"trial-3" in rows[-1][1]
