"""Whole-tensor statistics, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.machine.processors import one_thread
from automerge.merging.backends.code import CompiledCode
from automerge.merging.blocks import working_blocks
from automerge.merging.cache import Cache
from automerge.merging.order import EXACT, Binned, Order, order

Key = tuple[object, ...]


class VectorStatistics:
    """Statistics of one tensor's vectors: task vectors if there is a base, else the sources.

    `read` gives a model's tensor, flat. Results go into `numbers` (inner products) and `cache`
    (orders of magnitudes and variances), which outlive this object. `model_inner` covers all
    tensors of the models named: base, one source, another. `compiled` code counts faster.
    """

    def __init__(
        self,
        base: Stored | None,
        sources: Sequence[Stored],
        read: Callable[[Stored], Tensor],
        numbers: MutableMapping[Key, Tensor],
        cache: Cache,
        model_inner: Callable[[str | None, str, str], float],
        compiled: CompiledCode | None,
    ) -> None:
        self._base = base
        self._sources = sources
        self._read = read
        self._numbers = numbers
        self._cache = cache
        self._model_inner = model_inner
        self._compiled = compiled

    @property
    def count(self) -> int:
        return len(self._sources)

    @property
    def size(self) -> int:
        return self._read(self._sources[0]).numel()

    def inner(self, i: int, j: int) -> float:
        first, second = sorted((self._sources[i], self._sources[j]))
        key = ("inner", self._base, first, second)
        if key not in self._numbers:
            self._numbers[key] = inner(self._vector(first), self._vector(second))
        return self._numbers[key].item()

    def model_inner(self, i: int, j: int) -> float:
        base = None if self._base is None else self._base.model
        return self._model_inner(base, self._sources[i].model, self._sources[j].model)

    def magnitude(self, i: int, k: int) -> float:
        source = self._sources[i]

        def ordered() -> Order:
            if self._compiled is not None:
                pair = self._read(source), self._anchor()
                if self.size > EXACT:
                    counts = self._compiled.magnitude_counts(*pair)
                    if counts is not None:
                        return Binned(counts.cumsum(0))
                elif (magnitudes := self._compiled.magnitudes(*pair)) is not None:
                    return order([(magnitudes,)], self.size)
            return order(((block.abs(),) for block in self._vector(source)), self.size)

        return self._cache.get(("magnitude", self._base, source), ordered).value(k)

    @property
    def n_spread(self) -> int:
        return self._spread().n_positive

    def spread(self, k: int) -> float:
        return self._spread().value(k)

    def spread_energy(self, i: int, k: int) -> float:
        return self._spread().total(i, k)

    def _spread(self) -> Order:
        """Yield variances over the vectors, and the vectors' squares."""

        def ordered() -> Order:
            if self._compiled is not None and self.size > EXACT:
                tensors = [self._read(source) for source in self._sources]
                found = self._compiled.spread_counts(tensors, self._anchor())
                if found is not None:
                    counts, sums, zeros = found
                    return Binned(counts.cumsum(0), tuple(sums.cumsum(0).unbind(1)), zeros)
            vectors = zip(*(self._vector(source) for source in self._sources), strict=True)
            blocks = (
                (torch.stack(parts).var(dim=0, correction=0), *(part.square() for part in parts))
                for parts in vectors
            )
            with one_thread():
                return order(blocks, self.size)

        return self._cache.get(("spread", self._base, *self._sources), ordered)

    def _vector(self, source: Stored) -> Iterator[Tensor]:
        return vector(self._read(source), self._anchor())

    def _anchor(self) -> Tensor | None:
        """Return what vectors are differences to."""
        return None if self._base is None else self._read(self._base)


def vector(source: Tensor, base: Tensor | None) -> Iterator[Tensor]:
    """Yield a flat vector in blocks, in working precision: source, or source − base."""
    for blocks in working_blocks([source] if base is None else [source, base]):
        yield blocks[0] - blocks[1] if len(blocks) == 2 else blocks[0]


def inner(left: Iterable[Tensor], right: Iterable[Tensor]) -> Tensor:
    """Return the inner product of two vectors in blocks, accumulated in float64."""
    total = torch.zeros((), dtype=torch.float64)
    with one_thread():
        for ours, theirs in zip(left, right, strict=True):
            total += torch.dot(ours.double(), theirs.double()).cpu()
    return total
