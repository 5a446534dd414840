"""From item scores to values with honest uncertainty: intervals, paired differences, optimism."""

from automerge.estimation.differences import (
    Difference,
    mean_difference,
    paired_difference,
    smallest_detectable_difference,
    tango_interval,
)
from automerge.estimation.intervals import Interval, interval, mean_interval, wilson_interval
from automerge.estimation.nondominated import nondominated_probability
from automerge.estimation.optimism import Optimism, optimism

__all__ = [
    "Difference",
    "Interval",
    "Optimism",
    "interval",
    "mean_difference",
    "mean_interval",
    "nondominated_probability",
    "optimism",
    "paired_difference",
    "smallest_detectable_difference",
    "tango_interval",
    "wilson_interval",
]
