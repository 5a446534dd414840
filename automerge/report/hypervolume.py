"""Hypervolume of sets of models on test items, and of the search over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from automerge import pareto
from automerge.objective import Objective


@dataclass(frozen=True)
class Hypervolume:
    """The share of the box between `reference` and `ideal` that each set dominates.

    Both corners are in the objectives' own units, by objective name.
    """

    reference: Mapping[str, float]
    ideal: Mapping[str, float]
    front: float
    parents: float
    uniform: float | None
    sweep: float | None


def hypervolume_of_sets(
    objectives: Sequence[Objective],
    front: Sequence[Sequence[float]],
    parents: Sequence[Sequence[float]],
    uniform: Sequence[Sequence[float]],
    sweep: Sequence[Sequence[float]] = (),
) -> Hypervolume | None:
    """Compare sets of finite losses.

    Args:
        objectives: the objectives, m of them.
        front: losses (k, m) of the front, in the objectives' order.
        parents: losses of parents and base.
        uniform: losses of the uniform average; empty if unknown.
        sweep: losses of a sweep's best linear merges; with parents and average, they are its front.

    Returns:
        The shares; None for a single objective, or without front or parents.
    """
    if len(objectives) < 2 or not front or not parents:
        return None
    box = Box.around([*front, *parents, *uniform, *sweep])

    def named(losses: NDArray[np.float64]) -> dict[str, float]:
        pairs = zip(objectives, losses.tolist(), strict=True)
        return {o.name: o.loss(loss) for o, loss in pairs}

    return Hypervolume(
        named(box.reference),
        named(box.ideal),
        box.share(front),
        box.share(parents),
        box.share(uniform) if uniform else None,
        box.share([*sweep, *parents, *uniform]) if sweep else None,
    )


def progress(losses: NDArray[np.float64]) -> list[float]:
    """Return the share dominated after each trial; rows with NaN are failures, and keep it.

    Empty if all trials failed.
    """
    if not np.isfinite(losses).all(axis=1).any():
        return []
    box = Box.around(losses)
    history = pareto.hypervolume_history(losses, box.reference) / box.volume
    return [float(share) for share in history]


@dataclass(frozen=True)
class Box:
    """The box from the best value of each objective to a tenth of its range past the worst."""

    ideal: NDArray[np.float64]
    reference: NDArray[np.float64]

    @classmethod
    def around(cls, losses: ArrayLike) -> Box:
        """Return the box around all losses."""
        return cls(pareto.ideal_nadir(losses)[0], pareto.reference_point(losses))

    @property
    def volume(self) -> float:
        """The product of its sides."""
        return float(np.prod(self.reference - self.ideal))

    def share(self, losses: ArrayLike) -> float:
        """Return the share of the box that losses dominate."""
        return pareto.hypervolume(losses, self.reference) / self.volume
