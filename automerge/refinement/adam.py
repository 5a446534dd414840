"""Adam (Kingma and Ba 2015, arXiv:1412.6980), as a pure function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automerge.arrays import Floats

MEAN, SQUARE = 0.9, 0.999
"""How much of the running means of gradients and of their squares is kept (β₁, β₂)."""
EPSILON = 1e-8


@dataclass(frozen=True)
class Adam:
    """Running means of gradients and of their squares after a number of steps."""

    steps: int
    mean: Floats
    square: Floats

    @classmethod
    def start(cls, size: int) -> Adam:
        """Return the state before the first of a number of gradients of a size."""
        return cls(0, np.zeros(size), np.zeros(size))

    def step(self, gradient: Floats, rate: float) -> tuple[Adam, Floats]:
        """Return the next state, and what is added to the point (algorithm 1 of the paper)."""
        steps = self.steps + 1
        mean = MEAN * self.mean + (1 - MEAN) * gradient
        square = SQUARE * self.square + (1 - SQUARE) * gradient**2
        unbiased = mean / (1 - MEAN**steps)
        size = np.sqrt(square / (1 - SQUARE**steps))
        return Adam(steps, mean, square), np.asarray(-rate * unbiased / (size + EPSILON))
