"""A model folder appears whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from automerge.checkpoints import SafetensorsCheckpoint, check_target, write_checkpoint
from automerge.checkpoints.folder.formats import INDEX
from automerge.checkpoints.writer import shards, staging_path, sweep, write_verified
from automerge.errors import PreflightError
from tests.checkpoints.models import llama, save


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    return SafetensorsCheckpoint(
        save(llama().to(torch.bfloat16), tmp_path_factory.mktemp("writer") / "source")
    )


def tensors(source):
    return ((name, source.read(name)) for name in source.tensors)


def write(source, target, **options):
    return write_checkpoint(target, source.tensors, tensors(source), source.path, **options)


@pytest.mark.parametrize("shard_bytes", [1, 6_000, 5_000_000_000])
def test_what_is_written_is_what_transformers_and_we_read(source, shard_bytes, tmp_path):
    out = tmp_path / "münchen 模型 🐟" / "a b"
    written = write(source, out, shard_bytes=shard_bytes)
    again = SafetensorsCheckpoint(out)
    assert again.tensors == source.tensors
    live = AutoModelForCausalLM.from_pretrained(out, dtype="auto").state_dict()
    for name in source.tensors:
        assert torch.equal(again.read(name), source.read(name))
        assert torch.equal(live[name], source.read(name))
    assert (out / INDEX).exists() == (len(written.sha256) > 1)
    assert written.n_bytes == sum(f.stat().st_size for f in out.iterdir())
    for file in source.path.iterdir():
        if file.name != "config.json" and not file.name.startswith("model"):
            assert (out / file.name).read_bytes() == file.read_bytes()
    assert [p.name for p in out.parent.iterdir()] == ["a b"]


def test_a_disk_that_loses_what_is_written_is_found_out(tmp_path):
    blocks = [b"some", b"", bytes(range(256)) * 5000]
    digest = write_verified(tmp_path / "kept", iter(blocks))
    assert (tmp_path / "kept").read_bytes() == b"".join(blocks)
    assert digest == hashlib.sha256(b"".join(blocks)).hexdigest()
    with pytest.raises(PreflightError, match="null: the bytes read back differ"):
        write_verified(Path("/dev/null"), iter(blocks))


def test_shards_are_as_large_as_allowed_and_keep_the_order(source):
    files = shards(source.tensors, 6_000)
    assert [name for file in files for name in file] == list(source.tensors)
    for file in files:
        assert len(file) == 1 or sum(info.n_bytes for info in file.values()) <= 6_000


def test_a_folder_with_something_in_it_is_kept(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(source, out)
    with pytest.raises(PreflightError, match="not empty"):
        write(source, out)
    (out / "stale.safetensors").write_text("x")
    write(source, out, overwrite=True)
    assert not (out / "stale.safetensors").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_targets_that_cannot_be_written_are_refused_before_any_work(source, tmp_path):
    (tmp_path / "file").write_text("x")
    for target, message in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "out", "Not a directory|File exists"),
        (source.path, "contains a model"),
        (source.path.parent, "contains a model"),
    ):
        with pytest.raises(PreflightError, match=message):
            check_target(target, [source.path], overwrite=True)
        assert not (target / "config.json").exists() or target == source.path


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(source, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PreflightError, match="not writable"):
        write(source, tmp_path / "out")


def failing(source, error):
    for number, item in enumerate(tensors(source)):
        if number == 7:
            raise error
        yield item


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), PreflightError, "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), PreflightError, "Input/output error"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_an_error_leaves_everything_as_it_was(old, error, raised, message, source, tmp_path):
    out = tmp_path / "out"
    if old:
        out.mkdir()
        (out / "precious").write_text("x")
    with pytest.raises(raised, match=message):
        write_checkpoint(out, source.tensors, failing(source, error), source.path, overwrite=True)
    assert [p.name for p in tmp_path.rglob("*")] == (["out", "precious"] if old else [])


def test_a_file_size_limit_is_met_as_a_full_disk(source, tmp_path):
    """The kernel's own refusal, in a child with a small RLIMIT_FSIZE."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from automerge.checkpoints import SafetensorsCheckpoint, write_checkpoint\n"
        "from automerge.errors import PreflightError\n"
        "source = SafetensorsCheckpoint(Path(sys.argv[1]))\n"
        "tensors = [(n, source.read(n)) for n in source.tensors]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_checkpoint(Path(sys.argv[2]), source.tensors, tensors, source.path)\n"
        "except PreflightError as error: sys.exit('refused' if 'disk is full' in str(error) else 1)"
    )
    command = [sys.executable, "-c", code, str(source.path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("refused"), done.stderr
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


KILLED = """
import sys, time
from pathlib import Path
from automerge.checkpoints import SafetensorsCheckpoint, write_checkpoint
source = SafetensorsCheckpoint(Path(sys.argv[1]))
def slowly():
    for number, name in enumerate(source.tensors):
        if number == 9:
            print("writing", flush=True)
            time.sleep(60)
        yield name, source.read(name)
write_checkpoint(Path(sys.argv[2]), source.tensors, slowly(), source.path)
"""


def test_a_killed_export_leaves_no_folder_and_the_next_one_sweeps_up(source, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(source.path), str(out)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    sweep(out)
    assert len(list(tmp_path.glob(".staging-*"))) == 1
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not out.exists()
    write(source, out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_caught_between_two_names_is_put_back(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    time.sleep(0.01)
    out = tmp_path / "out"
    old = staging_path(out, "old")
    old = old.with_name(f"{old.name.rpartition('-')[0]}-{child.pid}")
    old.mkdir()
    (old / "precious").write_text("x")
    sweep(out)
    assert (out / "precious").read_text() == "x"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda items: items[1:],
        lambda items: items[:-1],
        lambda items: [(n, t.float()) for n, t in items],
        lambda items: [(n, t.reshape(-1)) for n, t in items],
    ],
)
def test_tensors_that_do_not_fit_the_layout_are_refused(wrong, source, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        write_checkpoint(
            tmp_path / "out", source.tensors, wrong(list(tensors(source))), source.path
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_config_names_the_dtype_that_was_written(key, source, tmp_path):
    folder = save(llama(), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config | {key: "float32"}))
    write_checkpoint(tmp_path / "out", source.tensors, tensors(source), folder)
    assert json.loads((tmp_path / "out/config.json").read_text())[key] == "bfloat16"
