"""Statistics of whole models, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from automerge.checkpoints import Checkpoint
from automerge.merging.blocks import working_blocks
from automerge.merging.order import Order, Signed, order, orders
from automerge.merging.vectors import inner, vector
from automerge.methods.shared.competition import Limits, scores

Key = tuple[object, ...]


@dataclass(frozen=True)
class _Shared:
    """The tensors that models have in common: a number that equal names have alone, the names, and
    how many elements they have together."""

    number: int
    names: tuple[str, ...]
    size: int


class ModelStatistics:
    """Statistics of models' vectors over all tensors that they share with the base.

    The vectors are task vectors where a base is named, else the models themselves. `read` gives a
    model's tensor, flat.
    """

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], read: Callable[[str, str], Tensor]
    ) -> None:
        self._checkpoints = checkpoints
        self._read = read
        self._sets: dict[tuple[str, ...], int] = {}
        self._tensors: dict[Key, _Shared] = {}
        self._inner: dict[Key, float] = {}
        self._magnitudes: dict[Key, Order] = {}
        self._competitions: dict[Key, tuple[Signed, ...]] = {}

    def inner(self, base: str | None, i: str, j: str) -> float:
        """Return the inner product of two models' vectors, accumulated in float64."""
        key = (base, *sorted((i, j)))
        if key not in self._inner:
            total = 0.0
            for name in self._shared(base, (i, j)).names:
                left, right = (self._vector(base, model, name) for model in (i, j))
                total += inner(left, right).item()
            self._inner[key] = total
        return self._inner[key]

    def size(self, base: str | None, models: Sequence[str]) -> int:
        """Count the elements of the tensors that models share."""
        return self._shared(base, models).size

    def magnitudes(self, base: str | None, models: Sequence[str], i: int) -> Order:
        """Order the magnitudes of the i-th model's vector, over what all the models share."""
        shared = self._shared(base, models)
        key = (base, models[i], shared.number)
        if key not in self._magnitudes:
            blocks = (
                (block.abs(),)
                for name in shared.names
                for block in self._vector(base, models[i], name)
            )
            self._magnitudes[key] = order(blocks, shared.size)
        return self._magnitudes[key]

    def competitions(
        self, base: str | None, models: Sequence[str], limits: Sequence[Limits]
    ) -> tuple[Signed, ...]:
        """Order every model's scores of parameter competition."""
        key = (base, *models, *limits)
        if key not in self._competitions:
            shared = self._shared(base, models)
            blocks = (
                block
                for name in shared.names
                for block in score_blocks(
                    [self._read(model, name) for model in models],
                    None if base is None else self._read(base, name),
                    limits,
                )
            )
            self._competitions[key] = signed_orders(blocks, shared.size, len(models))
        return self._competitions[key]

    def _shared(self, base: str | None, models: Sequence[str]) -> _Shared:
        # Asked for by every tensor of every candidate.
        key = (base, *models)
        if key not in self._tensors:
            first, *others = [self._checkpoints[m].tensors for m in key if m is not None]
            names = tuple(
                name
                for name, info in first.items()
                if info.mergeable and all(name in other for other in others)
            )
            number = self._sets.setdefault(names, len(self._sets))
            self._tensors[key] = _Shared(number, names, sum(first[n].n_elements for n in names))
        return self._tensors[key]

    def _vector(self, base: str | None, model: str, name: str) -> Iterator[Tensor]:
        return vector(self._read(model, name), None if base is None else self._read(base, name))


def score_blocks(
    sources: Sequence[Tensor], base: Tensor | None, limits: Sequence[Limits]
) -> Iterator[list[Tensor]]:
    """Yield, block by block, the positive part of every source's scores, then the negative one."""
    for block in working_blocks([*sources] if base is None else [*sources, base]):
        vectors = block if base is None else [x - block[-1] for x in block[:-1]]
        found = scores(vectors, limits)
        # No sign is left on zeros and NaN: numbers are binned by their bits.
        yield [part.relu().abs() for part in (*found, *(-score for score in found))]


def signed_orders(blocks: Iterable[Sequence[Tensor]], size: int, count: int) -> tuple[Signed, ...]:
    """Order what `score_blocks` yields of `count` sources."""
    parts = orders(blocks, size, 2 * count)
    return tuple(
        Signed(above, below, size)
        for above, below in zip(parts[:count], parts[count:], strict=True)
    )
