"""Models of the hub before they are downloaded: all but their weights, which are stood in for.

A stand-in for a weight file has its header and its size, and no other bytes but a few samples: a
sparse file, which takes no room on disk. So whatever compares models without reading weights takes
an outline's folder for the model's.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING

from automerge.checkpoints.adapters.options import CONFIG as ADAPTER_CONFIG
from automerge.checkpoints.folder.files import is_needed
from automerge.checkpoints.folder.stale import unwanted_downloads
from automerge.checkpoints.hub import HubModel, ModelFolder, download, identify, refusals
from automerge.checkpoints.places import LAYER
from automerge.checkpoints.safetensors_file import (
    MAX_HEADER_BYTES,
    parse,
    tensor_entry,
)
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from huggingface_hub import DryRunFileInfo

FIRST_BYTES = 1 << 17
"""Bytes of a weight file that are asked for first; nearly all headers fit."""
SAMPLE_BYTES = 1 << 16
"""Bytes of each of two samples of a matrix that may be tied to another."""
PACE_BYTES = 1 << 23
"""Bytes whose download is timed."""


@dataclass(frozen=True)
class Download:
    """Files that are still to be downloaded.

    Attributes:
        sizes: bytes by model, as the user refers to it; without models that are there.
        folder: the cache they go to.
        free: bytes free there.
        seconds: how long it takes at the pace of one connection; None if that is not known.
    """

    sizes: Mapping[str, int]
    folder: Path
    free: int
    seconds: float | None

    @property
    def n_bytes(self) -> int:
        return sum(self.sizes.values())


def check_room(sizes: Mapping[str, int], folder: Path, free: int) -> None:
    """Raise PreflightError if what is to be downloaded is more than is free in a folder."""
    if (needed := sum(sizes.values())) > free:
        raise PreflightError(
            f"{', '.join(sizes)}: {needed:,} bytes to download, but only {free:,} are free in "
            f"{folder}; free some, or set HF_HOME to a folder with more room"
        )


@dataclass
class Outlines:
    """Finds models as `resolve` does, but has outlines of those that would be downloaded.

    They are in a temporary folder, until the `with` block ends.
    """

    _place: TemporaryDirectory[str] = field(
        default_factory=lambda: TemporaryDirectory(prefix="automerge-outlines-")
    )
    _found: dict[str, _Outline] = field(default_factory=dict)

    def __enter__(self) -> Outlines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._place.cleanup()

    def find(self, reference: str) -> ModelFolder:
        """Return a model's folder, or that of its outline.

        Raises:
            PreflightError: there is no such model, or nobody may read it.
        """
        model = identify(reference)
        if isinstance(model, ModelFolder):
            return model
        if reference not in self._found:
            if (outline := _outline(model, Path(self._place.name))) is None:
                return download(model)
            self._found[reference] = outline
        return self._found[reference].folder

    def size(self, reference: str) -> int:
        """Return how many bytes of a model are not on this machine."""
        outline = self._found.get(reference)
        return 0 if outline is None else sum(outline.missing.values())

    def translated(self, faults: Iterable[Fault]) -> list[Fault]:
        """Return faults that name the hub's repositories instead of outlines' folders."""
        told = []
        for fault in faults:
            message = fault.message
            for outline in self._found.values():
                message = message.replace(str(outline.folder.path), outline.model.repo)
            told.append(Fault(message, fault.location))
        return told

    def said(self, text: str) -> str:
        """Return a message that names repositories instead of outlines' folders."""
        return self.translated([Fault(text)])[0].message

    def download(self) -> Download | None:
        """Return what is to be downloaded, after timing a part of it; None if all is there.

        Raises:
            PreflightError: there is no room for it.
        """
        from huggingface_hub import constants

        if not self._found:
            return None
        cache = Path(constants.HF_HUB_CACHE)
        near = next(p for p in (cache, *cache.absolute().parents) if p.exists())
        free = shutil.disk_usage(near).free
        sizes = {reference: self.size(reference) for reference in self._found}
        check_room(sizes, cache, free)
        return Download(sizes, cache, free, self._seconds(sum(sizes.values())))

    def _seconds(self, n_bytes: int) -> float | None:
        """Time the first bytes of the largest missing file, and return the seconds of all."""
        outline = max(self._found.values(), key=lambda o: max(o.missing.values()))
        file = max(outline.missing, key=lambda name: outline.missing[name])
        begun = time.monotonic()
        with refusals(outline.model):
            read = _read(outline.model, outline.folder.path.name, file, 0, PACE_BYTES)
        return n_bytes * (time.monotonic() - begun) / len(read) if read else None


@dataclass(frozen=True)
class _Outline:
    """A model's outline: where it stands, and the bytes of each file that is not here."""

    model: HubModel
    folder: ModelFolder
    missing: Mapping[str, int]


def _outline(model: HubModel, place: Path) -> _Outline | None:
    """Make the outline of a model; None if the whole model is here, or the hub cannot be asked."""
    listed = _listed(model)
    missing = {info.filename: info.file_size or 0 for info in listed if info.will_download}
    if not any(name.endswith(".safetensors") for name in missing):
        return None
    commit = listed[0].commit_hash
    # As in the hub's cache: links may lead from there, and adapters are compared with their base.
    folder = place / f"models--{model.repo.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    with refusals(model), _quiet():
        _copy_small(model, commit, folder, listed)
        for info in listed:
            if info.filename.endswith(".safetensors") and "/" not in info.filename:
                _stand_in(model, commit, info, folder)
    return _Outline(model, ModelFolder(folder, model.reference, commit, True), missing)


def _listed(model: HubModel) -> list[DryRunFileInfo]:
    """List the files that a download would have; none if the hub cannot be asked."""
    from huggingface_hub import errors, snapshot_download

    with refusals(model), _quiet():
        try:
            listed: object = snapshot_download(
                model.repo,
                revision=model.revision,
                ignore_patterns=unwanted_downloads(),
                dry_run=True,
            )
        except (errors.LocalEntryNotFoundError, errors.DryRunError):
            return []  # downloading it says why
    # It is the folder's path where the hub cannot be reached, but the cache has the model.
    return listed if isinstance(listed, list) else []


@contextmanager
def _quiet() -> Iterator[None]:
    """Have the hub's client show no progress bars."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _copy_small(
    model: HubModel, commit: str, folder: Path, listed: Iterable[DryRunFileInfo]
) -> None:
    """Download what is compared besides weights, into the cache, and copy it."""
    from huggingface_hub import hf_hub_download

    for info in listed:
        name = info.filename
        index = name.endswith(".safetensors.index.json")
        if name.endswith(".safetensors") or not (
            is_needed(name) or index or name == ADAPTER_CONFIG
        ):
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(hf_hub_download(model.repo, name, revision=commit), target)


def _stand_in(model: HubModel, commit: str, info: DryRunFileInfo, folder: Path) -> None:
    """Write a weight file's header and samples to a file of its size."""
    target, size = folder / info.filename, info.file_size or 0
    header = _header(model, commit, info)
    target.write_bytes(header[:size])
    os.truncate(target, size)
    with target.open("r+b") as file:
        for begin, end in _samples(target, header):
            for start in (begin, (begin + end) // 2):
                wanted = min(SAMPLE_BYTES, end - start)
                file.seek(start)
                file.write(_read(model, commit, info.filename, start, wanted))


def _header(model: HubModel, commit: str, info: DryRunFileInfo) -> bytes:
    """Read a weight file's beginning: its header, if it is a plausible one."""
    if info.is_cached:
        with Path(info.local_path).open("rb") as file:
            return file.read(_header_end(file.read(8), info.file_size or 0))
    start = _read(model, commit, info.filename, 0, FIRST_BYTES)
    end = _header_end(start[:8], info.file_size or 0)
    if end <= len(start):
        return start[:end]
    return _read(model, commit, info.filename, 0, end)  # from 0: a server may have no ranges


def _header_end(start: bytes, size: int) -> int:
    """Return where a header ends; a little of the file where there cannot be one."""
    end = 8 + int.from_bytes(start, "little")
    return end if len(start) == 8 and end <= min(size, 8 + MAX_HEADER_BYTES) else 512


def _samples(path: Path, header: bytes) -> list[tuple[int, int]]:
    """Return where the matrices outside the layers are: their values tell which are tied."""
    found: list[tuple[int, int]] = []
    try:
        for name, entry in parse(path, header[8:]).items():
            if name == "__metadata__" or LAYER.match(name):
                continue
            info, begin, end = tensor_entry(path, name, entry)
            if len(info.shape) == 2 and info.n_elements:
                found.append((len(header) + begin, len(header) + end))
    except PreflightError:
        return []  # opening the outline says what is wrong
    return found


def _read(model: HubModel, commit: str, file: str, begin: int, n_bytes: int) -> bytes:
    """Read bytes of a file on the hub; fewer, where it ends or the server has no ranges."""
    from huggingface_hub import constants, errors, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    url = hf_hub_url(model.repo, file, revision=commit)
    span = {"Range": f"bytes={begin}-{begin + n_bytes - 1}", "Accept-Encoding": "identity"}
    # httpx's, or that of the library that the client has taken its place with.
    failed = next(
        c
        for c in errors.HfHubHTTPError.__mro__
        if c.__name__ == "HTTPError" and issubclass(c, Exception)
    )
    read = bytearray()
    try:
        with http_stream_backoff("GET", url, headers={**build_hf_headers(), **span}) as response:
            hf_raise_for_status(response)
            if begin and response.status_code != 206:
                return b""
            for part in response.iter_bytes():
                read += part
                if len(read) >= n_bytes:
                    break
    except errors.HfHubHTTPError:
        raise
    except failed as error:
        raise PreflightError(
            f"{model.reference}: {file} cannot be read from {constants.ENDPOINT}: {error}; check "
            "the network and try again"
        ) from error
    return bytes(read[:n_bytes])
