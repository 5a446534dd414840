"""Smooth losses of a multiple-choice item, with their slopes, and the margin behind them.

To accuracy, an answer that is right by a hair and one that is right by a mile are both 1. The
margin tells them apart, and so does the tempered probability of the right choice, whose slope a
search can follow. Pure functions of log-likelihoods in nats: nothing here knows tasks or models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from automerge.arrays import Bools, Floats

Form = Literal["log", "probability", "brier"]
FORMS: tuple[Form, ...] = ("log", "probability", "brier")


@dataclass(frozen=True)
class ChoiceLoss:
    """An item's loss, and its derivative with respect to the log-likelihood of each choice.

    `slopes` are per nat, in the order of the choices; `probability` is that of the right choice, or
    of all right ones together, at the temperature.
    """

    value: float
    slopes: tuple[float, ...]
    probability: float


def margin(
    log_likelihoods: Sequence[float],
    right: Collection[int],
    lengths: Sequence[float] | None = None,
) -> float:
    """Return how far the best right choice is ahead of the best wrong one.

    Args:
        log_likelihoods: in nats, one per choice.
        right: the indices of the right choices, at least one; at least one other is wrong.
        lengths: what the metric divides each log-likelihood by; None divides by nothing.

    Returns:
        Nats, or nats per unit of length. Above 0, the metric calls the item right; below 0, wrong.

    Raises:
        ValueError: the arguments are not as described.
    """
    scores, is_right = _scores(log_likelihoods, right, lengths)
    if is_right.all():
        raise ValueError("every choice is right, so there is no margin; expected a wrong one")
    return float(scores[is_right].max() - scores[~is_right].max())


def choice_loss(
    log_likelihoods: Sequence[float],
    right: Collection[int],
    temperature: float,
    form: Form = "log",
    lengths: Sequence[float] | None = None,
) -> ChoiceLoss:
    """Return the loss of a multiple-choice item at a temperature.

    With q = softmax(log-likelihoods / lengths / temperature) and p the sum of q over the right
    choices, the loss is −log p ("log"), 1 − p ("probability") or (1 − p)² + Σ q² over the wrong
    choices ("brier": Brier 1950, the right choices counting as one outcome).

    Args:
        log_likelihoods: in nats, one per choice.
        right: the indices of the right choices, at least one.
        temperature: in the unit of `margin`, above 0; about half the median |margin| of a task
            ranks merges best (`experiments/margins`).
        form: which of the three.
        lengths: what the metric divides each log-likelihood by; None divides by nothing.

    Raises:
        ValueError: the arguments are not as described.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    scores, is_right = _scores(log_likelihoods, right, lengths)
    exponents = scores / temperature
    log_q = exponents - _log_sum(exponents)
    log_p = _log_sum(log_q[is_right])
    q, p = np.exp(log_q), math.exp(log_p)
    missed = float(q[~is_right].sum())  # 1 − p, exact where p is near 1
    if form == "log":
        value = -log_p
        # ∂L/∂z = q − [right] q / p
        steps = q.copy()
        steps[is_right] = -np.exp(log_q[is_right] - log_p) * missed
    elif form == "probability":
        value = missed
        # ∂L/∂z = −q ([right] − p)
        steps = np.where(is_right, -q * missed, q * p)
    elif form == "brier":
        wrong = q[~is_right]
        value = missed**2 + float(wrong @ wrong)
        # ∂L/∂z = q (g − Σ q g), where g = ∂L/∂q
        outer = np.where(is_right, -2 * missed, 2 * q)
        steps = q * (outer - float(q @ outer))
    else:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    divisors = 1.0 if lengths is None else np.asarray(lengths, dtype=np.float64)
    slopes = steps / divisors / temperature
    return ChoiceLoss(value, tuple(slopes.tolist()), p)


def _scores(
    log_likelihoods: Sequence[float],
    right: Collection[int],
    lengths: Sequence[float] | None,
) -> tuple[Floats, Bools]:
    """Return the choices' scores as the metric compares them, and which of them are right."""
    scores = np.asarray(log_likelihoods, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(f"log-likelihoods: expected finite numbers, got {log_likelihoods}")
    if not right or not all(0 <= index < len(scores) for index in right):
        raise ValueError(
            f"right: expected indices below {len(scores)}, at least one, got {sorted(right)}"
        )
    if lengths is not None:
        divisors = np.asarray(lengths, dtype=np.float64)
        if divisors.shape != scores.shape or not (divisors > 0).all():
            raise ValueError(f"lengths: expected {len(scores)} numbers above 0, got {lengths}")
        scores = scores / divisors
    is_right = np.zeros(len(scores), dtype=np.bool_)
    is_right[list(right)] = True
    return scores, is_right


def _log_sum(exponents: Floats) -> float:
    """Return log Σ exp, without overflow."""
    largest = float(exponents.max())
    return largest + math.log(float(np.exp(exponents - largest).sum()))
