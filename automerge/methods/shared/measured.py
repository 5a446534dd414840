"""Statistics of task vectors that are at hand, rather than stored in models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.methods.shared.competition import Limits, scores
from automerge.methods.shared.order import kth_largest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Measured:
    """Whole-tensor numbers of some vectors of one shape; see `methods.base.Statistics`.

    There are none of the whole model.
    """

    vectors: Sequence[Tensor]

    @property
    def count(self) -> int:
        return len(self.vectors)

    @property
    def size(self) -> int:
        return self.vectors[0].numel()

    def inner(self, i: int, j: int) -> float:
        first, second = (self.vectors[n].reshape(-1).double() for n in (i, j))
        return float(first @ second)

    def model_inner(self, i: int, j: int) -> float:
        raise _whole()

    @property
    def model_size(self) -> int:
        raise _whole()

    def magnitude(self, i: int, k: int, whole: bool = False) -> float:
        if whole:
            raise _whole()
        return float(kth_largest(self.vectors[i].abs(), k))

    def competition(self, i: int, k: int, limits: Sequence[Limits], whole: bool) -> float:
        if whole:
            raise _whole()
        return float(kth_largest(scores(self.vectors, limits)[i], k))

    @property
    def n_spread(self) -> int:
        return int((self._variances() > 0).sum())

    def spread(self, k: int) -> float:
        return float(kth_largest(self._variances(), k))

    def spread_energy(self, i: int, k: int) -> float:
        chosen = self._variances().topk(k).indices
        return float(self.vectors[i].reshape(-1)[chosen].double().square().sum())

    def _variances(self) -> Tensor:
        import torch

        return torch.stack([v.reshape(-1) for v in self.vectors]).var(dim=0, correction=0)


def _whole() -> ValueError:
    return ValueError("transformed task vectors have no statistics of the whole model")


def ranks(vector: Tensor) -> Tensor:
    """Return each element's rank by magnitude within its row, as `Operands.ranks` has them."""
    import torch

    columns = vector.shape[-1] if vector.ndim else 1
    if columns == 1:
        return torch.full(vector.shape, 0.5)
    order = vector.abs().argsort(dim=-1, stable=True)
    return order.argsort(dim=-1).to(torch.float32) * (1 / (columns - 1))
