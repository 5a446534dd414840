"""Evidence gathered in parts that fit into memory, kept until all of it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import PreflightError
from automerge.evidence.base import Kind
from automerge.evidence.file import writing_to

if TYPE_CHECKING:
    from torch import Tensor

ITEM_BYTES = 4
"""Of a float32."""


def groups(kind: Kind, shapes: Mapping[str, tuple[int, ...]], room: int | None) -> list[list[str]]:
    """Divide tensors into groups whose evidence fits into memory; those without any are left out.

    Args:
        kind: what is gathered.
        shapes: of the tensors, by name.
        room: bytes for the sums of one group; None for any number.

    Raises:
        PreflightError: a single tensor's evidence does not fit, or that of all tensors where it is
            gathered for them together.
    """
    own = {name: shape for name, shape in shapes.items() if kind.of(name)}
    sizes = {name: ITEM_BYTES * kind.elements(shape) for name, shape in own.items()}
    return packed(kind.name, sizes, room, kind.together)


def packed(
    what: str, sizes: Mapping[str, int], room: int | None, together: bool = False
) -> list[list[str]]:
    """Divide tensors into groups whose sums fit into memory; those without any are left out.

    Args:
        what: what is gathered, for messages.
        sizes: the bytes of its sums, by the name of the tensor.
        room: bytes for one group; None for any number.
        together: whether there may be only one group.

    Raises:
        PreflightError: a single tensor does not fit, or all do not where they must.
    """
    found: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if not size:
            continue
        if room is not None and size > room:
            raise PreflightError(
                f"{what} of {name} takes {size / 1e9:.2g} GB, but only {room / 1e9:.2g} GB of "
                "memory may be used: stop other programs or use a larger machine"
            )
        if not found or (room is not None and size > left):
            if found and room is not None and together:
                raise PreflightError(
                    f"{what} is gathered for all tensors together, which takes more than the "
                    f"{room / 1e9:.2g} GB of memory that may be used: stop other programs or use a "
                    "larger machine"
                )
            found.append([])
            left = room or 0
        found[-1].append(name)
        left -= size
    return found


class Parts(Mapping[str, "Tensor"]):
    """Tensors in files of a folder, each written whole or not at all; one is read at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Path] = {}
        self.done: set[str] = set()
        """The tensors asked for so far, with evidence or without."""
        for path in sorted(folder.glob("*.part")):
            self._open(path)

    def add(self, asked: Sequence[str], found: Mapping[str, Tensor]) -> None:
        """Keep what was found for some tensors.

        Raises:
            PreflightError: the folder cannot be written to.
        """
        from safetensors.torch import save_file

        path = self._folder / f"{len(self.done):06d}.part"
        scratch = path.with_suffix(".scratch")
        with writing_to(self._folder):
            save_file(dict(found), scratch, metadata={"asked": json.dumps(list(asked))})
            scratch.replace(path)
        self._open(path)

    def _open(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            self.done.update(json.loads(file.metadata()["asked"]))
            self._files.update(dict.fromkeys(file.keys(), path))

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)
