"""Whole model folders, or none: sharded, verified, renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from automerge.checkpoints.folder.files import carried, copy_carried
from automerge.checkpoints.folder.formats import INDEX, SINGLE
from automerge.checkpoints.reader import read_json
from automerge.checkpoints.safetensors_file import TensorInfo, header_bytes, read_header
from automerge.errors import DISK_FULL, PreflightError

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 5_000_000_000
Written: TypeAlias = tuple[int, Future[None], Future[None]]
"""A block's size, and the futures of writing and hashing it."""
READ_BYTES, AHEAD_BYTES, SYNC_BYTES = 1 << 22, 1 << 28, 1 << 28


@dataclass(frozen=True)
class WrittenCheckpoint:
    """A folder that was written and read back; `sha256` has its weight files' digests by name."""

    path: Path
    n_bytes: int
    sha256: Mapping[str, str]


def check_target(target: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Check that a folder can be written, before any work is done.

    Args:
        target: the folder to write.
        inputs: folders that must not be overwritten.
        overwrite: whether the folder may exist and have content.

    Raises:
        PreflightError: it cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise PreflightError(f"{target}: is a file; give a folder")
    resolved = target.resolve()
    for path in inputs:
        if resolved == path.resolve() or path.resolve().is_relative_to(resolved):
            raise PreflightError(
                f"{target}: contains a model that is to be merged; choose another folder"
            )
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise PreflightError(f"{target}: exists and is not empty; choose another folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(
            f"{target}: {error.strerror or error}; choose another folder"
        ) from error
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PreflightError(f"{target.parent}: not writable; choose another folder")


def write_checkpoint(
    target: Path,
    layout: Mapping[str, TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    assets: Path,
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    texts: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> WrittenCheckpoint:
    """Write a model folder that transformers can load; it appears whole or not at all.

    Args:
        target: the folder to write.
        layout: the tensors' shapes and dtypes, by name, in the order to write them.
        tensors: names and tensors in the order of `layout`, taken one at a time.
        assets: the folder that everything but weights and stale files is copied from.
        settings: settings of the configuration that replace those in `assets`.
        texts: the text of further files, by name.
        shard_bytes: the maximum size of a weight file's tensors.
        overwrite: whether the folder may exist and have content.

    Raises:
        PreflightError: the disk refuses; what was there before is then untouched.
    """
    check_target(target, (assets,), overwrite)
    sweep(target)
    check_space(target, sum(info.n_bytes for info in layout.values()))
    with staging(target, overwrite) as folder:
        digests = write_shards(folder, shards(layout, shard_bytes), tensors)
        copy_assets(assets, folder, layout, settings)
        for name, text in (texts or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        check_headers(folder, digests, layout)
        sync_all(folder)
    n_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return WrittenCheckpoint(target, n_bytes, digests)


def shards(layout: Mapping[str, TensorInfo], shard_bytes: int) -> list[dict[str, TensorInfo]]:
    """Split tensors, in order, into files of at most `shard_bytes`, or of a single tensor."""
    files: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in layout.items():
        if files[-1] and size + info.n_bytes > shard_bytes:
            files.append({})
            size = 0
        files[-1][name] = info
        size += info.n_bytes
    return files


def write_shards(
    folder: Path, files: Sequence[Mapping[str, TensorInfo]], tensors: Iterable[tuple[str, Tensor]]
) -> dict[str, str]:
    """Stream tensors to their files, with an index if there are several; return their sha256."""
    stream = iter(tensors)
    digests: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    for number, layout in enumerate(files, start=1):
        single = len(files) == 1
        name = SINGLE if single else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        digests[name] = write_verified(folder / name, blocks(layout, stream))
        weight_map |= dict.fromkeys(layout, name)
    if len(files) > 1:
        total = sum(info.n_bytes for layout in files for info in layout.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return digests


def write_verified(path: Path, blocks: Iterable[bytes | memoryview]) -> str:
    """Write blocks to a new file, read each one back and compare it, and return their sha256.

    This runs while the next blocks, up to `AHEAD_BYTES`, are computed. Every `SYNC_BYTES` are
    forced to disk, so that not all of it is left for the end.

    Raises:
        PreflightError: the bytes read back differ.
    """
    digest = hashlib.sha256()
    unsynced = 0
    waiting: deque[Written] = deque()
    with (
        path.open("wb", buffering=0) as file,
        path.open("rb", buffering=0) as again,
        ThreadPoolExecutor(1, thread_name_prefix="writer") as writer,
        ThreadPoolExecutor(1, thread_name_prefix="hasher") as hasher,
    ):

        def write(block: bytes | memoryview) -> None:
            nonlocal unsynced
            left = memoryview(block)
            while left:
                left = left[file.write(left) :]
            unsynced += len(block)
            if unsynced >= SYNC_BYTES:
                os.fsync(file.fileno())
                unsynced = 0
            read_back(again, memoryview(block))

        for block in blocks:
            while waiting and sum(size for size, *_ in waiting) + len(block) > AHEAD_BYTES:
                settle(waiting.popleft())
            futures = writer.submit(write, block), hasher.submit(digest.update, block)
            waiting.append((len(block), *futures))
        for written in waiting:
            settle(written)
    return digest.hexdigest()


def read_back(file: FileIO, written: memoryview) -> None:
    """Compare the next bytes of a file with what was written there."""
    piece = bytearray(min(READ_BYTES, len(written)))
    while written:
        n = file.readinto(memoryview(piece)[: len(written)]) or 0
        # Slices of bytearrays are compared by memcmp, those of memoryviews element by element.
        if n == 0 or piece[:n] != written[:n]:
            raise PreflightError(
                f"{file.name}: the bytes read back differ from those written; the disk is faulty"
            )
        written = written[n:]


def settle(written: Written) -> None:
    """Wait until a block is written and hashed; raise what either raised."""
    for future in written[1:]:
        future.result()


def blocks(
    layout: Mapping[str, TensorInfo], stream: Iterator[tuple[str, Tensor]]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of one file: the header, then each tensor as it arrives."""
    yield header_bytes(layout, {"format": "pt"})
    for expected, info in layout.items():
        name, tensor = next(stream, ("nothing", None))
        if tensor is None or name != expected:
            raise ValueError(f"expected tensor {expected!r} next, got {name!r}")
        if tuple(tensor.shape) != info.shape or str(tensor.dtype) != f"torch.{info.dtype}":
            raise ValueError(f"{name!r}: expected {info}, got {tensor.shape} {tensor.dtype}")
        yield raw_bytes(tensor)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes, little-endian and in row order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    data: memoryview = flat.numpy().data
    return data


def copy_assets(
    source: Path, folder: Path, layout: Mapping[str, TensorInfo], settings: Mapping[str, Any]
) -> None:
    """Copy everything but weights and stale files, and write the configuration.

    Its dtype is the most common one among the tensors written.
    """
    config = read_json(source / "config.json") | dict(settings)
    dtypes = [info.dtype for info in layout.values() if info.mergeable]
    if dtypes:
        most = max(dict.fromkeys(dtypes), key=dtypes.count)
        present = [key for key in ("dtype", "torch_dtype") if key in config]
        config |= dict.fromkeys(present or ["dtype"], most)
    for needless in ("_name_or_path", "auto_map"):
        config.pop(needless, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    copy_carried(carried(source), folder)


def check_headers(folder: Path, names: Iterable[str], layout: Mapping[str, TensorInfo]) -> None:
    """Raise PreflightError if the files do not declare the tensors that were to be written."""
    written: dict[str, TensorInfo] = {}
    for name in names:
        written |= read_header(folder / name)
    if written != dict(layout):
        raise PreflightError(f"{folder}: tensors read back differ from those written")


@contextmanager
def staging(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside the target, which becomes the target, or is removed on an error."""
    folder = staging_path(target, "new")
    replaced = staging_path(target, "old")
    try:
        folder.mkdir()
        yield folder
        if target.is_dir() and overwrite:
            target.rename(replaced)
        folder.rename(target)  # onto nothing, or onto an empty folder
        sync(target.parent)
    except OSError as error:
        raise PreflightError(disk_error(target, error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)


def disk_error(target: Path, error: OSError) -> str:
    """Describe what the disk refused, and what to do."""
    if error.errno in DISK_FULL:
        free = shutil.disk_usage(target.parent).free
        return (
            f"{target}: the disk is full ({free:,} bytes free, {error.strerror}); "
            "nothing was written; free some space or choose another folder"
        )
    return f"{target}: {error.strerror or error}; nothing was written; choose another folder"


def check_space(target: Path, n_bytes: int) -> None:
    """Raise PreflightError if the disk does not have this many bytes free."""
    free = shutil.disk_usage(target.parent).free
    if free < n_bytes:
        raise PreflightError(
            f"{target}: needs {n_bytes:,} bytes, {free:,} are free; free some space or choose "
            "another folder"
        )


def staging_path(target: Path, kind: str) -> Path:
    """Return where this process prepares a target; short enough for any file name."""
    digest = hashlib.sha256(target.name.encode()).hexdigest()[:8]
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return target.parent / f".staging-{target.name[:40]}-{digest}-{kind}-{host}-{os.getpid()}"


def sweep(target: Path) -> None:
    """Remove what killed processes of this machine left beside a target.

    If the target was being replaced and does not exist, the old one is put back.
    """
    old, _, _ = staging_path(target, "old").name.rsplit("-", 2)
    host = staging_path(target, "new").name.rsplit("-", 2)[1]
    for folder in target.parent.glob(".staging-*"):
        name, owner, pid = folder.name.rsplit("-", 2)
        if owner == host and pid.isdecimal() and not alive(int(pid)):
            if name == old and not target.exists():
                folder.rename(target)
            shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    """Return whether a process is running on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_all(folder: Path) -> None:
    """Force a folder and its files to disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
