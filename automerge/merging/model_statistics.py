"""Statistics of whole models, each computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from automerge.checkpoints import Checkpoint
from automerge.merging.blocks import working_blocks
from automerge.merging.order import Order, Signed, orders
from automerge.merging.vectors import inner, vector
from automerge.methods.shared.competition import Limits, scores

Key = tuple[object, ...]


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
        self._inner: dict[Key, float] = {}
        self._magnitudes: dict[Key, Order] = {}
        self._competitions: dict[Key, tuple[Signed, ...]] = {}

    def inner(self, base: str | None, i: str, j: str) -> float:
        """Return the inner product of two models' vectors, accumulated in float64."""
        key = (base, *sorted((i, j)))
        if key not in self._inner:
            total = 0.0
            for name in self._shared(base, (i, j)):
                left, right = (self._vector(base, model, name) for model in (i, j))
                total += inner(left, right).item()
            self._inner[key] = total
        return self._inner[key]

    def size(self, base: str | None, models: Sequence[str]) -> int:
        """Count the elements of the tensors that models share."""
        tensors = self._checkpoints[base or models[0]].tensors
        return sum(tensors[name].n_elements for name in self._shared(base, models))

    def magnitudes(self, base: str | None, models: Sequence[str], i: int) -> Order:
        """Order the magnitudes of the i-th model's vector, over what all the models share."""
        names = self._shared(base, models)
        key = (base, models[i], tuple(names))
        if key not in self._magnitudes:
            blocks = (
                (block.abs(),) for name in names for block in self._vector(base, models[i], name)
            )
            [self._magnitudes[key]] = orders(blocks, self.size(base, models), 1)
        return self._magnitudes[key]

    def competitions(
        self, base: str | None, models: Sequence[str], limits: Sequence[Limits]
    ) -> tuple[Signed, ...]:
        """Order every model's scores of parameter competition."""
        key = (base, *models, *limits)
        if key not in self._competitions:
            blocks = (
                block
                for name in self._shared(base, models)
                for block in score_blocks(
                    [self._read(model, name) for model in models],
                    None if base is None else self._read(base, name),
                    limits,
                )
            )
            self._competitions[key] = signed_orders(blocks, self.size(base, models), len(models))
        return self._competitions[key]

    def _shared(self, base: str | None, models: Sequence[str]) -> list[str]:
        first, *others = [self._checkpoints[m].tensors for m in (base, *models) if m is not None]
        return [
            name
            for name, info in first.items()
            if info.mergeable and all(name in other for other in others)
        ]

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
