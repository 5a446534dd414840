"""A small network whose weights are searched instead of the numbers that it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from automerge.space.parameters import UNIFORM_SCALE, FloatParameter
from automerge.trial import Params

N_HIDDEN = 4
INNER, OUTER = 3.0, 2.0
"""The largest weight of a hidden unit's inputs, and of the unit."""
SCALE = 0.1
"""Prior standard deviation of a unit's weight, as a share of its range: ±0.4, so that the output of
all units has a standard deviation of about 0.6."""


@dataclass(frozen=True)
class Network:
    """Σ_h a_h tanh(Σ_i w_hi x_i + b_h) of inputs x in [−1, 1], as searched numbers a, w and b.

    At the middle of all ranges it is 0 everywhere.
    """

    name: str
    n_inputs: int

    @cached_property
    def parameters(self) -> tuple[FloatParameter, ...]:
        """A hidden unit's weight, then those of its inputs and its bias, unit after unit."""
        return tuple(
            parameter
            for unit in range(N_HIDDEN)
            for parameter in (
                self._number(f"{unit}", OUTER, SCALE),
                *(
                    self._number(f"{unit}.{i}", INNER, UNIFORM_SCALE)
                    for i in range(self.n_inputs + 1)
                ),
            )
        )

    def _number(self, label: str, most: float, scale: float) -> FloatParameter:
        name = f"{self.name}.{label}"
        return FloatParameter(name, name, -most, most, scale, smooth=False)

    @property
    def zero(self) -> Params:
        """The parameters at which it is 0 everywhere."""
        return {parameter.name: 0.0 for parameter in self.parameters}

    def output(self, params: Params, inputs: Sequence[float]) -> float:
        """Return what it gives for one set of inputs."""
        weights = [float(params[parameter.name]) for parameter in self.parameters]
        size = self.n_inputs + 2
        total = 0.0
        for start in range(0, len(weights), size):
            outer, *inner, bias = weights[start : start + size]
            within = sum(weight * x for weight, x in zip(inner, inputs, strict=True))
            total += outer * math.tanh(within + bias)
        return total
