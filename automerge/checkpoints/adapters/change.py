"""What an adapter does to one tensor of its base, and the resulting tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.checkpoints.low_rank import LowRank

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], "Tensor"]


@dataclass(frozen=True)
class Factors:
    """A product scale · B · A, by the names of its factors in the adapter's file.

    If `transposed`, it is added as (B · A)ᵀ. `start` is the initialisation whose product was
    subtracted from the base when training began.
    """

    down: str
    up: str
    scale: float
    transposed: bool
    start: str | None = None


@dataclass(frozen=True)
class Change:
    """The changes to one tensor, by names in the adapter's file, in the order they are applied.

    `stored` replaces the base's tensor; `factors` are added; `magnitude` sets the norms of rows
    (columns if transposed; DoRA, Liu et al. 2024, arXiv:2402.09353); `tokens` replaces rows;
    `added`, times a scale, is added; `scaled` is a vector that the tensor is multiplied by along
    the given axis (IA³, Liu et al. 2022, arXiv:2205.05638).
    """

    stored: str | None = None
    factors: Factors | None = None
    magnitude: str | None = None
    tokens: tuple[str, tuple[int, ...]] | None = None
    added: tuple[str, float] | None = None
    scaled: tuple[str, int] | None = None

    @property
    def low_rank(self) -> bool:
        """Whether the tensor is a base plus factors, and nothing else."""
        return self.factors is not None and not self.computed

    @property
    def computed(self) -> bool:
        """Whether the tensor is computed when it is read, and is not low rank."""
        return bool(self.magnitude or self.tokens or self.added or self.scaled)

    def update(self, base: Tensor, read: Read) -> LowRank | None:
        """Return the base, or what is stored instead of it, with the factors; None without them."""
        if self.factors is None:
            return None
        base = self.before(base, read)
        up, down = read(self.factors.up), read(self.factors.down)
        if self.factors.start is not None:
            return over_start(base, up, down, self.factors)
        if self.factors.transposed:
            up, down = down.T, up.T
        return LowRank(base, up, down, self.factors.scale)

    def apply(self, base: Tensor, read: Read) -> Tensor:
        """Return the changed tensor in the base's dtype, computed in float32 and rounded once."""
        update = self.update(base, read)
        if not self.computed:
            return self.before(base, read) if update is None else update.whole()
        import torch

        dtype = base.dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if update is None:
            result = self.before(base, read).to(wide, copy=True)
        else:
            result = LowRank(update.base.to(wide), update.up, update.down, update.scale).whole()
        if self.magnitude is not None and self.factors is not None:
            across = 0 if self.factors.transposed else 1
            norms = result.norm(dim=across, keepdim=True)
            result *= read(self.magnitude).to(wide).reshape(norms.shape) / norms
        if self.tokens is not None:
            key, indices = self.tokens
            result[list(indices)] = read(key).to(wide)
        if self.added is not None:
            key, scale = self.added
            result += scale * read(key).to(wide)
        if self.scaled is not None:
            key, axis = self.scaled
            shape = [1] * result.dim()
            shape[axis] = -1
            result *= read(key).to(wide).reshape(shape)
        return result.to(dtype)

    def before(self, base: Tensor, read: Read) -> Tensor:
        """Return the tensor that factors are added to, in the base's dtype."""
        return base if self.stored is None else read(self.stored).to(base.dtype)


def over_start(base: Tensor, up: Tensor, down: Tensor, factors: Factors) -> LowRank:
    """Return the base minus the product that initialised the factors, plus the factors.

    PiSSA (Meng et al. 2024, arXiv:2404.02948) starts from the base's best approximation of the
    factors' rank, OLoRA (Büyükakyüz 2024, arXiv:2406.01775) from the first columns of its QR
    decomposition. Both are computed again, in float64, as PEFT does when it loads such an adapter.
    """
    import torch

    rank = down.shape[0]
    matrix = base.double()
    if factors.transposed:
        matrix = matrix.T
    if factors.start == "pissa":
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        start_up, start_down = left[:, :rank] * values[:rank], right[:rank]
    else:
        # The factors are Q and R; PEFT subtracts scale · Q · R.
        orthogonal, triangular = torch.linalg.qr(matrix)
        start_up, start_down = factors.scale * orthogonal[:, :rank], triangular[:rank]
    up = torch.cat([factors.scale * up.double(), -start_up], dim=1).float()
    down = torch.cat([down.double(), start_down]).float()
    if factors.transposed:
        up, down = down.T, up.T
    return LowRank(base, up, down, 1.0)
