"""Whole-tensor statistics, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.machine.processors import one_thread
from automerge.merging.backends.code import CompiledCode
from automerge.merging.cache import Cache
from automerge.merging.model_statistics import ModelStatistics, score_blocks, signed_orders
from automerge.merging.order import EXACT, Binned, Order, Signed, order
from automerge.merging.vectors import inner, vector
from automerge.methods.shared.competition import Limits

Key = tuple[object, ...]


class VectorStatistics:
    """Statistics of one tensor's vectors: task vectors if there is a base, else the sources.

    `read` gives a model's tensor, flat. Results go into `numbers` (inner products) and `cache`
    (orders of magnitudes, scores and variances), which outlive this object. `models` has those of
    whole models. `compiled` code counts faster.
    """

    def __init__(
        self,
        base: Stored | None,
        sources: Sequence[Stored],
        read: Callable[[Stored], Tensor],
        numbers: MutableMapping[Key, Tensor],
        cache: Cache,
        models: ModelStatistics,
        compiled: CompiledCode | None,
    ) -> None:
        self._base = base
        self._sources = sources
        self._read = read
        self._numbers = numbers
        self._cache = cache
        self._models = models
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
        return self._models.inner(self._base_model, *(self._sources[n].model for n in (i, j)))

    @property
    def model_size(self) -> int:
        return self._models.size(self._base_model, self._names)

    @property
    def _base_model(self) -> str | None:
        return None if self._base is None else self._base.model

    @property
    def _names(self) -> list[str]:
        return [source.model for source in self._sources]

    def magnitude(self, i: int, k: int, whole: bool = False) -> float:
        if whole:
            return self._models.magnitudes(self._base_model, self._names, i).value(k)
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

    def competition(self, i: int, k: int, limits: Sequence[Limits], whole: bool) -> float:
        if whole:
            return self._models.competitions(self._base_model, self._names, limits)[i].value(k)

        def ordered() -> tuple[Signed, ...]:
            sources = [self._read(source) for source in self._sources]
            blocks = score_blocks(sources, self._anchor(), limits)
            return signed_orders(blocks, self.size, len(sources))

        key = ("competition", self._base, *self._sources, *limits)
        return self._cache.get(key, ordered)[i].value(k)

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
