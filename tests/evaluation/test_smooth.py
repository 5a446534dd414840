"""Losses of multiple choice against finite differences, plain formulas and accuracy itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.evaluation.smooth import (
    FORMS,
    Form,
    choice_loss,
    margin,
)

STEP = 1e-5
"""Central differences: the error is of the order STEP² + 1e-16 / STEP, about 1e-10."""
TOLERANCE = 1e-8


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[float], list[int], list[float] | None]:
    """Log-likelihoods, the right choices and lengths or none; at least one choice is wrong."""
    n = draw(st.integers(2, 5))
    found = draw(st.lists(st.floats(-30, 0), min_size=n, max_size=n))
    right = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n - 1, unique=True))
    lengths = draw(st.none() | st.lists(st.floats(1, 40), min_size=n, max_size=n))
    return found, right, lengths


@pytest.mark.parametrize("form", FORMS)
@given(choices(), st.floats(0.5, 20))
def test_slopes_are_the_derivative_of_the_loss(
    form: Form, item: tuple[list[float], list[int], list[float] | None], temperature: float
) -> None:
    lls, right, lengths = item

    def value(at: int, step: float) -> float:
        moved = [ll + step * (i == at) for i, ll in enumerate(lls)]
        return choice_loss(moved, right, temperature, form, lengths).value

    slopes = choice_loss(lls, right, temperature, form, lengths).slopes
    numeric = [(value(k, STEP) - value(k, -STEP)) / (2 * STEP) for k in range(len(lls))]
    scale = 1 + max(map(abs, numeric))
    np.testing.assert_allclose(slopes, numeric, rtol=0, atol=TOLERANCE * scale)


@given(choices(), st.floats(0.5, 20))
def test_losses_are_those_of_the_plain_formulas(
    item: tuple[list[float], list[int], list[float] | None], temperature: float
) -> None:
    lls, right, lengths = item
    divisors = lengths or [1.0] * len(lls)
    powers = [math.exp(ll / n / temperature) for ll, n in zip(lls, divisors, strict=True)]
    q = [power / sum(powers) for power in powers]
    p = sum(q[k] for k in right)
    brier = (1 - p) ** 2 + sum(q[k] ** 2 for k in range(len(q)) if k not in right)
    expected = {"log": -math.log(p), "probability": 1 - p, "brier": brier}
    for form in FORMS:
        found = choice_loss(lls, right, temperature, form, lengths)
        assert found.value == pytest.approx(expected[form], rel=1e-9, abs=1e-12)
        assert found.probability == pytest.approx(p, rel=1e-9)


@given(choices())
def test_a_margin_above_zero_is_a_right_answer(
    item: tuple[list[float], list[int], list[float] | None],
) -> None:
    lls, right, lengths = item
    scores = np.asarray(lls) / (1.0 if lengths is None else np.asarray(lengths))
    if (ahead := margin(lls, right, lengths)) != 0:
        assert (int(np.argmax(scores)) in right) == (ahead > 0)


@pytest.mark.parametrize("form", FORMS)
def test_answers_wrong_by_a_mile_still_have_a_finite_loss(form: Form) -> None:
    found = choice_loss([-9000.0, -1.0], [0], 0.5, form)
    assert math.isfinite(found.value)
    assert np.isfinite(found.slopes).all()


@pytest.mark.parametrize(
    ("lls", "right", "temperature", "lengths", "said"),
    [
        ([-1.0, math.nan], [0], 1.0, None, "finite"),
        ([-1.0, -2.0], [2], 1.0, None, "indices below 2"),
        ([-1.0, -2.0], [], 1.0, None, "at least one"),
        ([-1.0, -2.0], [0], 0.0, None, "above 0"),
        ([-1.0, -2.0], [0], 1.0, [3.0, 0.0], "2 numbers above 0"),
    ],
)
def test_what_has_no_loss_is_refused(
    lls: list[float],
    right: list[int],
    temperature: float,
    lengths: list[float] | None,
    said: str,
) -> None:
    with pytest.raises(ValueError, match=said):
        choice_loss(lls, right, temperature, lengths=lengths)


def test_without_a_wrong_choice_there_is_no_margin() -> None:
    with pytest.raises(ValueError, match="every choice is right"):
        margin([-1.0, -2.0], [0, 1])
