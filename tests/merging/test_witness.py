"""Exported weights are those that were scored on test items, or that is said."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import automerge
from automerge.checkpoints import open_together, whole_digest
from automerge.commands.export import export_models
from automerge.errors import WeightsDiffer
from automerge.evaluation.base import Entry, Settings
from automerge.evaluation.panel import Panel
from automerge.machine.arithmetic import arithmetic
from automerge.merging import merge_to_folder
from automerge.merging.witness import tensor_digest, weights_digest
from automerge.methods import METHODS
from automerge.recipe import uniform_average
from automerge.store.file import put
from automerge.store.read_result import open_study, study_result
from automerge.store.store import Store
from automerge.testing.merges import count, recipe
from automerge.trial import Job, Measured
from automerge.worker.worker import MergeWorker, WorkerSpec
from tests.zoo import write_zoo

ITEMS = {"choose": tuple(range(8))}
NAMES = ("base", "left", "right", "adapter")
UNIFORM = uniform_average(("left", "right"))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


def worker(zoo: Path, *methods: str, dtype: str = "float32") -> MergeWorker:
    models = {name: zoo / name for name in NAMES}
    digests = {name: whole_digest(path) for name, path in models.items()}
    panel = Panel((Entry("lm_eval", "choose", "choose"),), Settings(zoo / "tasks"))
    spec = WorkerSpec(models, digests, "base", panel, zoo, dtype, "cpu", methods=methods)
    return MergeWorker(spec)


@pytest.mark.sample(2)
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "iso_c", "tsv_m", "widen"])
def test_what_is_exported_has_the_digest_of_what_was_scored(zoo, tmp_path, monkeypatch, method):
    monkeypatch.chdir(zoo / "tasks")
    made = recipe(METHODS[method])
    names = dict(zip([f"m{i}" for i in range(count(METHODS[method]))], NAMES[1:], strict=False))
    made = type(made).from_plain(rename(made.plain(), names))
    scoring = worker(zoo, method)
    assert scoring.measure(Job(0, made, "search", ITEMS)).weights is None
    outcome = scoring.measure(Job(0, made, "test", ITEMS))
    assert isinstance(outcome, Measured)
    assert outcome.arithmetic == arithmetic()
    models = open_together({name: zoo / name for name in NAMES}, "base")
    merge_to_folder(made, models, tmp_path / "whole", scored=outcome.weights)
    other = scoring.measure(Job(1, UNIFORM, "test", ITEMS)).weights
    with pytest.raises(WeightsDiffer):
        merge_to_folder(made, models, tmp_path / "none", scored=other)
    assert not (tmp_path / "none").exists()


def rename(plain: object, names: dict[str, str]) -> object:
    if isinstance(plain, dict):
        return {names.get(k, k): rename(v, names) for k, v in plain.items()}
    if isinstance(plain, list):
        return [rename(v, names) for v in plain]
    return names.get(plain, plain) if isinstance(plain, str) else plain


def test_weights_that_were_rounded_to_be_scored_have_no_digest(zoo, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    narrow = worker(zoo, dtype="bfloat16")
    outcome = narrow.measure(Job(0, UNIFORM, "test", ITEMS))
    assert isinstance(outcome, Measured)
    assert outcome.weights is None


def test_a_digest_knows_every_bit_the_dtype_the_shape_and_the_name():
    tensor = torch.arange(6.0)
    known = {
        weights_digest({name: tensor_digest(t)})
        for name, t in (
            ("w", tensor),
            ("v", tensor),
            ("w", tensor.reshape(2, 3)),
            ("w", tensor.view(torch.int32)),
            ("w", tensor * torch.tensor([1, 1, 1, 1, 1, 1 + 2**-23])),
            ("w", -tensor),
        )
    }
    assert len(known) == 6
    two = {"a": "1", "b": "2"}
    assert weights_digest(two) == weights_digest(dict(reversed(two.items())))
    assert tensor_digest(tensor[::2]) == tensor_digest(tensor[::2].clone())


def test_a_worker_is_known_by_versions_models_device_and_arithmetic(zoo, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    found = worker(zoo).identity()
    assert found["arithmetic"] == arithmetic()
    assert found["device"]
    assert {f"model {name}" for name in NAMES} <= set(found)
    assert {"torch", "transformers", "lm_eval"} <= set(found)


@pytest.fixture(scope="module")
def finished(zoo, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    automerge.search(
        {
            "base": zoo / "base",
            "models": {"left": zoo / "left", "right": zoo / "right"},
            "tasks": ["choose"],
            "include_path": zoo / "tasks",
            "budget": 4,
            "evaluation": {"items_per_candidate": 20},
            "export": "none",
            "out": out,
        }
    )
    return out


def change(run: Path, key: str, fact: object) -> None:
    """Write another fact into a store than the search did."""
    with Store(run, write=True) as store, store._transaction() as db:
        put(db, key, json.dumps(fact))


def uniform_of(run: Path) -> int:
    with open_study(run) as store:
        (number,) = [trial.number for trial in store.trials() if trial.origin == "uniform"]
        return number


def test_an_export_that_is_not_what_was_scored_is_refused_or_named(finished, caplog):
    number = uniform_of(finished)
    with open_study(finished) as store:
        result = study_result(finished, store)
        scored = store.scored_weights(number)
        assert store.arithmetics() == (arithmetic(),)
    folder = finished / "models" / "uniform"
    assert scored is not None
    right = {**asdict(scored[0]), "arithmetic": scored[1]}
    wrong = {**right, "digest": "0" * 64}
    change(finished, "weights", {number: wrong})
    with pytest.raises(WeightsDiffer, match="a model's file or a version has changed"):
        export_models(finished, result, [number], None)
    assert not folder.exists()
    change(finished, "weights", {number: {**wrong, "arithmetic": "another"}})
    export_models(finished, result, [number], None)
    assert folder.is_dir()
    assert "on another kind of processor" in caplog.text
    caplog.clear()
    folder.rename(finished / "aside")
    change(finished, "weights", {number: right})
    export_models(finished, result, [number], None)
    assert folder.is_dir()
    assert not caplog.text


def test_a_study_of_several_kinds_of_arithmetic_says_so(finished):
    with open_study(finished) as store:
        assert not [w for w in study_result(finished, store).warnings if "processors" in w]
    change(finished, "arithmetics", [arithmetic(), "another"])
    with open_study(finished) as store:
        (warning,) = [w for w in study_result(finished, store).warnings if "processors" in w]
    assert "another" in warning
    change(finished, "arithmetics", [arithmetic()])
