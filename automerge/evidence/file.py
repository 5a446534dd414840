"""Evidence on disk: safetensors files named by a digest of their bytes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.safetensors_file import TensorInfo, header_bytes
from automerge.checkpoints.writer import raw_bytes
from automerge.errors import PreflightError, disk_is_full
from automerge.evidence.base import KINDS
from automerge.files.cache import cache_home
from automerge.files.digest import sha256

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = 32
DIGEST = re.compile(rf"[0-9a-f]{{{DIGITS}}}", re.ASCII)
ENDING = ".evidence.safetensors"
EVIDENCE = "evidence"
"""A folder beside a recipe, or in a run folder, where evidence is looked up first."""
PIECES = "pieces"
"""The key of an origin that has the token ids of evidence that a live model is compared with."""


@dataclass(frozen=True)
class EvidenceFile:
    """An evidence file whose name was checked against its bytes; see `Evidence`."""

    path: Path
    kind: str
    digest: str
    origin: Mapping[str, Any]
    """Which model, data and version it was made from."""

    @property
    def pieces(self) -> Sequence[Sequence[int]]:
        found: Sequence[Sequence[int]] = self.origin.get(PIECES, ())
        return found

    @cached_property
    def _names(self) -> frozenset[str]:
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            return frozenset(file.keys())

    def read(self, tensor: str) -> Tensor | None:
        from safetensors import safe_open

        if tensor not in self._names:
            return None
        with safe_open(self.path, "pt") as file:
            found: Tensor = file.get_tensor(tensor)
        return found


@dataclass(frozen=True)
class MemoryEvidence:
    """Evidence without a file; see `Evidence`."""

    kind: str
    digest: str
    tensors: Mapping[str, Tensor]
    pieces: Sequence[Sequence[int]] = ()

    def read(self, tensor: str) -> Tensor | None:
        return self.tensors.get(tensor)


def cache_folder() -> Path:
    """Return the folder that evidence is kept in: `evidence`, in automerge's cache."""
    return cache_home() / "evidence"


def write_evidence(
    folder: Path, kind: str, origin: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> EvidenceFile:
    """Write evidence, whole or not at all, to a file named by a digest of its bytes.

    Args:
        folder: where to write it; made if it does not exist.
        kind: the name of one of `KINDS`.
        origin: the model, data and version it was computed from, as JSON values.
        tensors: by the name of the checkpoint's tensor that they belong to; each is read twice,
            one at a time.

    Raises:
        PreflightError: the folder cannot be written to.
    """
    metadata = {"evidence": json.dumps({"kind": kind, "origin": origin}, sort_keys=True)}
    names = sorted(tensors)
    infos = {name: _info(tensors[name]) for name in names}
    with (
        writing_to(folder),
        tempfile.TemporaryDirectory(prefix=".evidence-", dir=folder) as scratch,
    ):
        made = Path(scratch) / "made"
        with made.open("wb") as file:
            file.write(header_bytes(infos, metadata))
            for name in names:
                file.write(raw_bytes(tensors[name]))
        digest = file_digest(made)
        path = folder / f"{digest}{ENDING}"
        made.replace(path)
    return EvidenceFile(path, kind, digest, origin)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Make a folder of evidence, and say what to do where it cannot be written to.

    Raises:
        PreflightError: the folder cannot be made, or what is written in the block cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:
        if isinstance(error, OSError) or disk_is_full(error):
            advice = "free some space or set XDG_CACHE_HOME to another folder"
            raise PreflightError(f"cannot write evidence to {folder}: {error}; {advice}") from error
        raise


def _info(tensor: Tensor) -> TensorInfo:
    return TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def open_evidence(path: Path) -> EvidenceFile:
    """Open a file of evidence after checking its name against its bytes.

    Raises:
        PreflightError: the file is damaged, is not evidence, or is of an unknown kind.
    """
    from safetensors import SafetensorError, safe_open

    digest = path.name.removesuffix(ENDING)
    if not path.is_file() or file_digest(path) != digest:
        raise PreflightError(f"{path} is damaged: its bytes do not match its name; delete it")
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads((file.metadata() or {})["evidence"])
        kind, origin = stated["kind"], stated["origin"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise PreflightError(f"{path} is not an evidence file: {error}") from error
    if kind not in KINDS:
        raise PreflightError(
            f"{path} contains evidence of an unknown kind, {kind!r}; update automerge"
        )
    return EvidenceFile(path, kind, digest, origin)


def file_digest(path: Path) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of a file."""
    return sha256(path)[:DIGITS]


class EvidenceFolders(Mapping[str, EvidenceFile]):
    """Evidence files by digest, looked up in some folders; each is checked once, at first use."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._opened: dict[str, EvidenceFile] = {}

    def __getitem__(self, digest: str) -> EvidenceFile:
        """Open one file.

        Raises:
            PreflightError: none of the folders has it, or it is damaged.
        """
        if digest not in self._opened:
            paths = [folder / f"{digest}{ENDING}" for folder in self._folders]
            path = next((p for p in paths if DIGEST.fullmatch(digest) and p.exists()), None)
            if path is None:
                places = ", ".join(map(str, self._folders))
                raise PreflightError(
                    f"no evidence {digest} in {places}; copy {digest}{ENDING} there from the "
                    "machine that the study ran on"
                )
            self._opened[digest] = open_evidence(path)
        return self._opened[digest]

    def __iter__(self) -> Iterator[str]:
        files = (p for folder in self._folders for p in sorted(folder.glob(f"*{ENDING}")))
        return iter(dict.fromkeys(path.name.removesuffix(ENDING) for path in files))

    def __len__(self) -> int:
        return sum(1 for _ in self)
