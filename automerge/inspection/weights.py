"""Statistics of task vectors over all tensors, with one block of elements in memory at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from automerge.checkpoints import Checkpoint, places
from automerge.inspection.model import Cell, NotFinite, Pair, TaskVector, Weights
from automerge.recipe import COMPONENTS, Place

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 18
"""The number of elements of each model that are processed at once."""

Progress = Callable[[int, int], None]
Key = tuple[bool, int, str]


def measure(
    checkpoints: Mapping[str, Checkpoint], base: str, progress: Progress | None = None
) -> Weights:
    """Measure the task vectors of models whose tensors have the same names and shapes.

    Differences are taken in float32 (float64 for float64 models), sums in float64. `progress` is
    called with the number of elements done and in total.
    """
    import torch

    sources = [name for name in checkpoints if name != base]
    tensors = {n: i for n, i in checkpoints[base].tensors.items() if i.mergeable}
    where = places(checkpoints[base].tensors)
    n = len(sources)
    gram, agree, both = (torch.zeros(n, n, dtype=torch.float64) for _ in range(3))
    cells: dict[Key, Tensor] = {}
    changed = torch.zeros(n, dtype=torch.float64)
    broken: list[NotFinite] = []
    total, done = sum(info.n_elements for info in tensors.values()), 0
    for name, info in tensors.items():
        flat = {model: c.read(name).reshape(-1) for model, c in checkpoints.items()}
        broken += not_finite(flat, name)
        cell = cells.setdefault(key(where[name]), torch.zeros(n + 1, dtype=torch.float64))
        for anchor, deltas in blocks(flat, base, sources):
            products = deltas.double() @ deltas.double().T
            gram += products
            cell[:n] += products.diagonal()
            cell[n] += anchor.double().square().sum()
            signs = deltas.sign()
            moved = signs.abs()
            agree += (signs @ signs.T).double()
            overlap = (moved @ moved.T).double()
            both += overlap
            changed += overlap.diagonal()
        done += info.n_elements
        if progress is not None:
            progress(done, total)
    return Weights(
        tuple(
            vector(name, i, cells, changed[i].item() / max(total, 1))
            for i, name in enumerate(sources)
        ),
        tuple(
            pair(
                sources[i], sources[j], gram[i, j], gram[i, i], gram[j, j], agree[i, j], both[i, j]
            )
            for i, j in itertools.combinations(range(n), 2)
        ),
        tuple(broken),
    )


def blocks(
    flat: Mapping[str, Tensor], base: str, sources: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the base's elements and the sources' task vectors (sources, elements), in blocks."""
    import torch

    double = any(tensor.dtype == torch.float64 for tensor in flat.values())
    precision = torch.float64 if double else torch.float32
    for start in range(0, flat[base].numel(), BLOCK):
        part = {name: flat[name][start : start + BLOCK].to(precision) for name in flat}
        anchor = part[base]
        deltas = torch.stack([part[name] - anchor for name in sources]) if sources else None
        if deltas is None:
            deltas = anchor.new_zeros(0, anchor.numel())
        yield anchor.nan_to_num(0.0, 0.0, 0.0), torch.where(deltas.isfinite(), deltas, 0.0)


def not_finite(flat: Mapping[str, Tensor], name: str) -> list[NotFinite]:
    """Count the elements that are not finite in one tensor of each model."""
    found = []
    for model, tensor in flat.items():
        if (tensor * 0).sum() != 0:  # NaN if any element is not finite; a sum is fast
            found.append(
                NotFinite(model, name, int(tensor.isnan().sum()), int(tensor.isinf().sum()))
            )
    return found


def key(place: Place) -> Key:
    """Return the cell that a tensor belongs to: in a layer, before the layers, or after them."""
    if place.layer is not None:
        return True, place.layer, place.component
    return False, int(place.depth > 0), place.component


def vector(source: str, row: int, cells: Mapping[Key, Tensor], changed: float) -> TaskVector:
    """Return one source's norms, cell by cell, from the embedding to the head."""
    found = [
        Cell(
            number if inside else None,
            0.0 if not inside and number == 0 else 1.0,
            component,
            math.sqrt(sums[row].item()),
            math.sqrt(sums[-1].item()),
        )
        for (inside, number, component), sums in sorted(
            cells.items(), key=lambda item: order(item[0])
        )
    ]
    norm = math.sqrt(math.fsum(cell.norm**2 for cell in found))
    base_norm = math.sqrt(math.fsum(cell.base_norm**2 for cell in found))
    return TaskVector(source, norm, base_norm, changed, tuple(found))


def order(cell: Key) -> tuple[int, int, int]:
    """Return a sort key for cells: by depth, then in the order of components."""
    inside, number, component = cell
    stage = 1 if inside else 2 * number
    return stage, number, COMPONENTS.index(component)


def pair(
    one: str, other: str, inner: Tensor, left: Tensor, right: Tensor, agree: Tensor, both: Tensor
) -> Pair:
    """Compare two task vectors, given their inner products and counts of signs."""
    dot, a, b, n = inner.item(), left.item(), right.item(), both.item()
    return Pair(
        one,
        other,
        max(-1.0, min(1.0, dot / math.sqrt(a * b))) if a and b else None,
        (n - agree.item()) / 2 / n if n else None,
        math.sqrt(max(0.0, a + b - 2 * dot)),
    )
