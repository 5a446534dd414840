"""A source with its heads, units and residual stream in its base's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from automerge.checkpoints import low_rank
from automerge.checkpoints.low_rank import LowRank
from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.symmetries.roles import Anatomy
from automerge.checkpoints.symmetries.transform import Transform
from automerge.checkpoints.vocabularies.aligned import rearranged
from automerge.files.align import Align

if TYPE_CHECKING:
    from torch import Tensor


class TransformedCheckpoint:
    """A model that computes the same function with other weights.

    Tensors keep their dtype: a permutation changes no value, a rotation is rounded once.
    """

    def __init__(
        self, model: Checkpoint, anatomy: Anatomy, transform: Transform, align: Align
    ) -> None:
        self.path = model.path
        self.assets = model.assets
        self.config = model.config
        self.tensors = model.tensors
        self.align = align
        """How it was aligned, with the alignment's digest."""
        self._model = model
        self._anatomy = anatomy
        self._transform = transform
        self._moved = {
            name for name, axes in anatomy.axes.items() if transform.moves(axes, anatomy.shapes)
        }

    def read(self, name: str) -> Tensor:
        tensor = self._model.read(name)
        if name not in self._moved:
            return tensor
        return self._transform.apply(tensor, self._anatomy.axes[name], self._anatomy.shapes)

    def rearranged(self, name: str) -> bool:
        """Return whether a tensor is computed when it is read."""
        return name in self._moved or rearranged(self._model, name)

    def update(self, name: str) -> LowRank | None:
        """Return a tensor's factors if it is stored as such and not moved."""
        return None if name in self._moved else low_rank.update(self._model, name)


def alignments(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Return how models are aligned, by name, as `Align.text`; only those that are."""
    return {
        name: model.align.text
        for name, model in checkpoints.items()
        if isinstance(model, TransformedCheckpoint)
    }
