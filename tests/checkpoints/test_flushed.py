"""What is written is on the disk before it has its name, as the system's calls show."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from automerge.checkpoints import SafetensorsCheckpoint, write_checkpoint
from automerge.commands.dashboard import write_optuna_storage
from automerge.commands.search import write_reports
from tests.checkpoints.models import llama, save
from tests.studies import toy_study


@dataclass
class Flushed:
    """Every call of fsync: the file or folder, what it held then, and what was at a path."""

    target: Path
    real: Callable[[int], None] = os.fsync
    seen: list[tuple[int, object, int | None]] = field(default_factory=list)

    def __call__(self, descriptor: int) -> None:
        self.real(descriptor)
        there = self.target.stat().st_ino if self.target.exists() else None
        self.seen.append((*self.state(descriptor), there))

    @staticmethod
    def state(path: int | Path) -> tuple[int, object]:
        """A file by its inode, size and last change; a folder by its inode and its names."""
        found = os.stat(path)  # noqa: PTH116  a path or a descriptor
        if stat.S_ISDIR(found.st_mode):
            return found.st_ino, frozenset(os.listdir(path))  # noqa: PTH208
        return found.st_ino, (found.st_size, found.st_mtime_ns)

    def before(self) -> set[tuple[int, object]]:
        """What was flushed before its target had the name it now has."""
        final = self.target.stat().st_ino
        return {(inode, held) for inode, held, there in self.seen if there != final}

    def after(self) -> set[tuple[int, object]]:
        final = self.target.stat().st_ino
        return {(inode, held) for inode, held, there in self.seen if there == final}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SafetensorsCheckpoint:
    torch.manual_seed(0)
    folder = save(llama(), tmp_path_factory.mktemp("flushed") / "source")
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "table.json").write_text("{}")
    return SafetensorsCheckpoint(folder)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_whole_model_is_flushed_before_its_folder_has_its_name(
    source: SafetensorsCheckpoint,
    overwrite: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    if overwrite:
        out.mkdir()
        (out / "old").write_text("x")
    flushed = Flushed(out)
    monkeypatch.setattr(os, "fsync", flushed)
    tensors = ((name, source.read(name)) for name in source.tensors)
    write_checkpoint(
        out, source.tensors, tensors, source.path, texts={"README.md": "x"},
        shard_bytes=6_000, overwrite=overwrite,
    )  # fmt: skip
    written = [out, *out.rglob("*")]
    assert {"README.md", "config.json", "table.json", "deeper"} <= {path.name for path in written}
    assert len(list(out.glob("*.safetensors"))) > 1
    assert {Flushed.state(path) for path in written} <= flushed.before()
    assert tmp_path.stat().st_ino in {inode for inode, _ in flushed.after()}, "and then the name"


@pytest.mark.parametrize("name", ["front.json", "report.html", "optuna.journal"])
def test_a_report_is_flushed_before_it_has_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_study(tmp_path / "run", 6)
    flushed = Flushed(run / name)
    monkeypatch.setattr(os, "fsync", flushed)
    write_reports(run)
    write_optuna_storage(run)
    assert Flushed.state(run / name) in flushed.before()
