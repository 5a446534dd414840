"""Whether model folders still contain what a study was started with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.writer import raw_bytes
from automerge.errors import ModelsChanged
from automerge.machine.processors import usable_cpus

DECISIVE = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Weights, configuration, tokenizer and chat template."""
WEIGHTS = ("*.safetensors",)
CHUNK_BYTES = 1 << 24
"""Bytes that one of `THREADS` hashes at a time."""
THREADS = 4
SAMPLED_BLOCKS = 64
BLOCK_BYTES = 4096

Stamp = tuple[int, int, int, int, int]
"""A file's device, inode, size, and mtime and ctime in nanoseconds."""


def content_files(folder: Path, patterns: Sequence[str] = DECISIVE) -> list[Path]:
    """List the files that determine a model: weights, configuration and tokenizer."""
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return sorted(found)


def whole_digest(folder: Path) -> str:
    """Return a SHA-256 over every byte of a model: of names, sizes and digests of chunks."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(THREADS, usable_cpus())) as pool:
        for file in content_files(folder):
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            for chunk in pool.map(partial(_chunk_digest, file), range(0, size, CHUNK_BYTES)):
                digest.update(chunk)
    return digest.hexdigest()


def weights_identity(checkpoint: Checkpoint) -> str:
    """Return a digest of a model's weights that does not depend on what and where the model is.

    For a folder it is that of `sampled_digest`, for a model in memory one of all elements.
    """
    if checkpoint.path.is_dir():
        return sampled_digest(checkpoint.path, WEIGHTS)
    digest = hashlib.sha256()
    for name, info in sorted(checkpoint.tensors.items()):
        digest.update(f"{name}\0{info}\0".encode())
        digest.update(raw_bytes(checkpoint.read(name)))
    return digest.hexdigest()


def sampled_digest(folder: Path, patterns: Sequence[str] = DECISIVE) -> str:
    """Return a digest that tells models apart without reading all of them.

    It is a SHA-256 over each file's size, beginning (a weight file's header) and `SAMPLED_BLOCKS`
    evenly spaced blocks: training changes nearly all weights, so it changes the sample.
    """
    digest = hashlib.sha256()
    for file in content_files(folder, patterns):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little") if size > 8 else 0
            stream.seek(0)
            digest.update(stream.read(min(size, 8 + header, 10_000_000)))
            for block in range(SAMPLED_BLOCKS):
                stream.seek(block * max(0, size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()


def stamps(folder: Path) -> Mapping[str, Stamp]:
    """Return stamps that change when files are written to or replaced, without reading them."""
    found = {}
    for file in content_files(folder):
        try:
            stat = file.stat()
        except OSError:
            continue  # removed since it was listed; its absence counts as a difference
        found[file.name] = (
            stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns,
        )  # fmt: skip
    return found


class ModelWatch:
    """Watches model folders for changes, and raises ModelsChanged if there are any.

    If there are digests, folders whose stamps differ are read again and compared with them, so that
    touching a file does no harm; without digests, any new stamp counts as a change.
    """

    def __init__(self, folders: Mapping[str, Path], digests: Mapping[str, str] | None = None):
        self._folders = dict(folders)
        self._digests = digests
        self._stamps = {name: stamps(folder) for name, folder in self._folders.items()}

    @classmethod
    def hashing(cls, folders: Mapping[str, Path]) -> ModelWatch:
        """Read every byte, and take the present content as the reference."""
        watch = cls(folders)
        watch._digests = {name: whole_digest(folder) for name, folder in folders.items()}
        if not watch.untouched:
            watch.verify()
        return watch

    @property
    def digests(self) -> Mapping[str, str]:
        """The digest of each model's whole content; empty if nothing was hashed."""
        return self._digests or {}

    @property
    def untouched(self) -> bool:
        """Whether no file was written to or replaced since it was last verified."""
        return not self._touched()

    def check(self) -> None:
        """Compare the files' stamps, and read again only folders that were touched.

        Raises:
            ModelsChanged: the content of a model differs.
        """
        if touched := self._touched():
            self._verify(touched)

    def verify(self) -> None:
        """Read every byte again.

        Raises:
            ModelsChanged: the content of a model differs.
        """
        self._verify(list(self._folders))

    def _touched(self) -> list[str]:
        return [n for n, folder in self._folders.items() if stamps(folder) != self._stamps[n]]

    def _verify(self, names: Iterable[str]) -> None:
        changed = []
        for name in names:
            folder = self._folders[name]
            before = stamps(folder)
            if self._digests is not None and _digest_or_none(folder) == self._digests[name]:
                self._stamps[name] = before
                if stamps(folder) == before:
                    continue
            changed.append(name)
        if changed:
            raise ModelsChanged(_sentence(self._folders, changed))


def _digest_or_none(folder: Path) -> str | None:
    try:
        return whole_digest(folder)
    except OSError:
        return None


def _chunk_digest(file: Path, start: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return hashlib.sha256(stream.read(CHUNK_BYTES)).digest()


def _sentence(folders: Mapping[str, Path], changed: Iterable[str]) -> str:
    models = ", ".join(f"{name!r} in {folders[name]}" for name in changed)
    return (
        f"the files of {models} changed while they were in use, so nothing more was measured or "
        "exported; put them back and run the same command again"
    )
