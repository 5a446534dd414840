"""What merging reads and computes again and again, kept while it is useful."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from automerge.checkpoints import Checkpoint
from automerge.merging.statistics import Key, VectorStatistics
from automerge.methods.uniform import uniform


class Workspace:
    """Flat tensors, statistics and uniforms of named checkpoints, each made once until cleared.

    At most `uniform_bytes` of uniforms are kept; the rest is made anew, block by block.
    """

    def __init__(self, checkpoints: Mapping[str, Checkpoint], uniform_bytes: int = 0) -> None:
        self.checkpoints = checkpoints
        self._uniform_bytes = uniform_bytes
        self._seed: int | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._tensors: dict[tuple[str, str], Tensor] = {}
        self._statistics: dict[Key, Tensor] = {}
        self._uniforms: dict[tuple[str, str], Tensor] = {}
        self._room = self._uniform_bytes

    def tensor(self, model: str, name: str) -> Tensor:
        """One model's tensor, flat; never written to."""
        key = (model, name)
        if key not in self._tensors:
            self._tensors[key] = self.checkpoints[model].read(name).reshape(-1)
        return self._tensors[key]

    def statistics(self, name: str, base: str | None, sources: tuple[str, ...]) -> VectorStatistics:
        """Statistics of the vectors of one tensor."""
        return VectorStatistics(
            name, base, sources, lambda model: self.tensor(model, name), self._statistics
        )

    def uniform(self, seed: int, name: str, source: str, start: int, stop: int) -> Tensor:
        """Uniforms of elements [start, stop) of one tensor of one source."""
        if seed != self._seed:
            self._seed, self._uniforms, self._room = seed, {}, self._uniform_bytes
        kept = self._uniforms.get((name, source))
        if kept is None:
            size = self.tensor(source, name).numel()
            if 4 * size > self._room:
                return uniform(seed, name, source, start, stop - start)
            kept = self._uniforms[name, source] = uniform(seed, name, source, 0, size)
            self._room -= 4 * size
        return kept[start:stop]
