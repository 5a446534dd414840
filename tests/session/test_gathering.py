"""What evidence cannot be gathered from, or kept in, is said by name, early where it can be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from automerge.errors import PreflightError
from automerge.evidence import cache_folder
from automerge.evidence.parts import Parts
from automerge.session import gathering
from automerge.session.gathering import GatherSettings, gather
from tests.evaluation.toys import WORDS
from tests.zoo import write_zoo

SETTINGS = GatherSettings(tokens=40, length=10, device="cpu")
NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_zoo(tmp_path)
    (tmp_path / "plain.txt").write_text(" ".join(WORDS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def gathered(folder: Path, kind: str):
    models = {"base": folder / "base", "left": folder / "left"}
    return gather(models, ("left",), kind, {None: folder / "plain.txt"}, SETTINGS)


def test_a_cache_that_cannot_be_written_to_is_refused_before_a_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    monkeypatch.setattr(gathering, "load_base", None)
    with pytest.raises(PreflightError, match=r"cannot write evidence to .*set XDG_CACHE_HOME to"):
        gathered(folder, "input_gram")


def test_parts_that_cannot_be_kept_are_refused_with_advice(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    (tmp_path / "parts").write_text("")
    with pytest.raises(PreflightError, match=r"cannot write evidence to .*set XDG_CACHE_HOME to"):
        parts.add(["a"], {"a": torch.ones(1)})


def test_a_kind_that_a_model_has_nothing_of_is_refused_and_not_kept(folder: Path) -> None:
    with pytest.raises(PreflightError, match=r"^left: this model has nothing of the kind routing"):
        gathered(folder, "routing")
    assert not list(cache_folder().glob("*.safetensors"))


def test_a_model_that_is_not_finite_is_named_with_its_tensor(folder: Path) -> None:
    path = folder / "left" / "model.safetensors"
    tensors = load_file(path)
    tensors[NORM][0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(PreflightError, match=rf"^left: tensor '{NORM}' is not finite .*download"):
        gathered(folder, "input_gram")
