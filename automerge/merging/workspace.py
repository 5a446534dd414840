"""What merging reads and computes again and again, kept while it is useful."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, Stored
from automerge.merging.fused import FusedKernels
from automerge.merging.order import Order
from automerge.merging.statistics import Key, VectorStatistics, inner, ranks, vector
from automerge.methods import Method, Operands
from automerge.methods.uniform import uniform


class Workspace:
    """Flat tensors, statistics and uniforms of named checkpoints, each made once until cleared.

    At most `uniform_bytes` of uniforms are kept; the rest is made anew, block by block. With
    `fused` kernels, element-wise methods are merged by them.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        uniform_bytes: int = 0,
        fused: FusedKernels | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self.fused = fused
        self._uniform_bytes = uniform_bytes
        self._seed: int | None = None
        self._of_models: dict[Key, float] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything but the few numbers that are about whole models."""
        self._tensors: dict[Stored, Tensor] = {}
        self._statistics: dict[Key, Tensor] = {}
        self._orders: dict[Key, Order] = {}
        self._uniforms: dict[Stored, Tensor] = {}
        self._ranks: dict[Key, Tensor] = {}
        self._prepared: dict[tuple[object, ...], tuple[Tensor, ...]] = {}
        self._room = self._uniform_bytes

    def tensor(self, origin: Stored) -> Tensor:
        """One model's tensor, flat; never written to."""
        if origin not in self._tensors:
            self._tensors[origin] = self._read(*origin)
        return self._tensors[origin]

    def _read(self, model: str, name: str) -> Tensor:
        return self.checkpoints[model].read(name).reshape(-1)

    def statistics(self, base: Stored | None, sources: tuple[Stored, ...]) -> VectorStatistics:
        """Statistics of the vectors of one tensor."""
        return VectorStatistics(
            base, sources, self.tensor, self._statistics, self._orders, self._model_inner
        )

    def _model_inner(self, base: str | None, i: str, j: str) -> float:
        """The inner product of two sources' vectors over all tensors they share; none is kept."""
        key = (base, *sorted((i, j)))
        if key not in self._of_models:
            total = 0.0
            others = [self.checkpoints[model].tensors for model in (i, j)]
            for name, info in self.checkpoints[base or i].tensors.items():
                if info.mergeable and all(name in other for other in others):
                    anchor = None if base is None else self._read(base, name)
                    left, right = self._read(i, name), self._read(j, name)
                    total += inner(vector(left, anchor), vector(right, anchor)).item()
            self._of_models[key] = total
        return self._of_models[key]

    def uniform(self, seed: int, source: Stored, start: int, stop: int) -> Tensor:
        """Uniforms of elements [start, stop) of one tensor of one source."""
        if seed != self._seed:
            self._seed, self._uniforms, self._room = seed, {}, self._uniform_bytes
        kept = self._uniforms.get(source)
        if kept is None:
            size = self.tensor(source).numel()
            if 4 * size > self._room:
                return uniform(seed, source.tensor, source.model, start, stop - start)
            kept = uniform(seed, source.tensor, source.model, 0, size)
            self._uniforms[source] = kept
            self._room -= 4 * size
        return kept[start:stop]

    def ranks(self, base: Stored | None, source: Stored, columns: int) -> Tensor:
        """Ranks of one source's vector within its rows of so many columns, flat."""
        key = (base, source)
        if key not in self._ranks:
            anchor = None if base is None else self.tensor(base)
            flat = torch.cat(list(vector(self.tensor(source), anchor)))
            self._ranks[key] = ranks(flat.reshape(-1, columns)).reshape(-1)
        return self._ranks[key]

    def prepared(self, method: Method, key: Key, operands: Operands) -> tuple[Tensor, ...]:
        """What a method computes from one tensor's operands, whatever the knobs."""
        if method.prepare is None:
            return ()
        full = (method.prepare, *key)
        if full not in self._prepared:
            self._prepared[full] = method.prepare(operands)
        return self._prepared[full]
