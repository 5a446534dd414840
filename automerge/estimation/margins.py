"""Margins of items as smooth scores: at which temperature, and what they make a score likely."""

from __future__ import annotations

import numpy as np
from scipy import special

from automerge.arrays import Floats

TEMPERATURE_SHARE = 0.5
"""The temperature in medians of |margin| (`experiments/margins`)."""


def temperature(margins: Floats) -> float:
    """Return the temperature for margins of one leaf task, from those of some models.

    At a much higher one, an item that could go either way counts no more than one that is right
    by a mile; at a much lower one, only the sign is left.
    """
    size = float(np.median(np.abs(margins))) if len(margins) else 0.0
    return TEMPERATURE_SHARE * size if size > 0 else 1.0


def right_probability(margins: Floats, temperature: Floats | float) -> Floats:
    """Return 1 / (1 + exp(−margin / temperature)), which is 0.5 at a margin of 0.

    The tempered probability of the best right choice against the best wrong one.
    """
    return np.asarray(special.expit(margins / temperature), dtype=np.float64)


def above_half(predicted: Floats, variance: Floats) -> Floats:
    """Return the probabilities that normal variables exceed 0.5: that a margin is above 0."""
    return np.asarray(special.ndtr((predicted - 0.5) / np.sqrt(variance)), dtype=np.float64)
