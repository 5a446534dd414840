"""What is read is what was hashed: stamps tell cheaply, digests surely."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from automerge.checkpoints import ModelWatch, sampled_digest, whole_digest
from automerge.checkpoints.contents import CHUNK_BYTES
from automerge.errors import ModelsChanged

MIDDLE = 700_001
"""A byte that no sampled block holds."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes([16, *7 * [0]]) + os.urandom(1_500_000))
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("of no account")
    return folder


def flip(file: Path, at: int = MIDDLE) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def overwrite(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def rename_over(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(os.urandom(file.stat().st_size))
    other.rename(file)


def truncate(file: Path) -> None:
    os.truncate(file, 1000)


def flip_and_restore_the_time(file: Path) -> None:
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = (flip, overwrite, rename_over, truncate, flip_and_restore_the_time, Path.unlink)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_done_to_a_file_is_seen_without_reading_others(
    model: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    watch = ModelWatch.hashing({"this": model, "other": other})
    watch.check()
    assert watch.untouched
    change(model / "model.safetensors")
    assert not watch.untouched
    with pytest.raises(ModelsChanged, match=f"'this' in {model} changed .* run the same command"):
        watch.check()
    assert ModelsChanged.exit_code == 4


def test_a_touched_file_with_the_same_bytes_does_no_harm(model: Path) -> None:
    watch = ModelWatch.hashing({"this": model})
    os.utime(model / "model.safetensors")
    (model / "README.md").write_text("changed")
    assert not watch.untouched
    watch.check()
    assert watch.untouched


def test_without_a_digest_any_touch_counts(model: Path) -> None:
    watch = ModelWatch({"this": model})
    watch.check()
    os.utime(model / "model.safetensors")
    with pytest.raises(ModelsChanged):
        watch.check()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on tmpfs, where writing through a mapping changes no time of a file."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_byte_that_changed_without_a_trace_is_found_by_reading_all(
    memory: Path, model: Path
) -> None:
    rotten = shutil.copytree(model, memory / "model")
    watch = ModelWatch.hashing({"this": rotten})
    file = rotten / "model.safetensors"
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        mapped[MIDDLE] ^= 1
    if not watch.untouched:
        pytest.skip("this kernel notes the time of writing through a mapping")
    watch.check()
    assert sampled_digest(rotten) == sampled_digest(model)
    with pytest.raises(ModelsChanged):
        watch.verify()


def test_a_whole_digest_is_of_every_byte_name_and_length(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    file = folder / "model.safetensors"
    content = os.urandom(2 * CHUNK_BYTES + 5)
    file.write_bytes(content)
    found = {whole_digest(folder)}
    for at in (0, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 4):
        flip(file, at)
        found.add(whole_digest(folder))
        flip(file, at)
    assert len(found) == 5
    file.rename(folder / "other.safetensors")
    found.add(whole_digest(folder))
    (folder / "other.safetensors").write_bytes(content[:-1])
    found.add(whole_digest(folder))
    assert len(found) == 7


CUT_SHORT = """
import os, sys
import torch
from safetensors.torch import save_file
from safetensors import safe_open
from automerge.machine.bus_error import explain_bus_errors
path, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
save_file({"x": torch.ones(4_000_000)}, path)
explain_bus_errors()
mapped = safe_open(path, framework="pt", device="cpu").get_tensor("x")
os.truncate(path, 4096)
print(float((mapped * 2).sum()))
"""


@pytest.mark.sample(1)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_cut_short_under_a_mapping_ends_with_a_sentence(
    tmp_path: Path, threads: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path / "x.safetensors"), str(threads)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 4
    assert "truncated" in done.stderr
    assert "run the same command to resume" in done.stderr
