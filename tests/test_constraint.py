"""What a merged model must keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.constraint import Constraint

VALUES = {"base": 0.5, "math": 0.7, "code": 0.6, "uniform": 0.9}
PARENTS = ("base", "math", "code")


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("mmlu >= 0.6", 0.6),
        ("mmlu>=.6", 0.6),
        ("mmlu <= -1e-3", -0.001),
        ("mmlu >= best_parent", 0.7),
        ("mmlu >= best_parent - 0.01", 0.69),
        ("mmlu >= best_parent-0.01", 0.69),
        ("mmlu >= uniform + 0.05", 0.95),
        ("mmlu >= code", 0.6),
        ("mmlu >= other", None),
    ],
)
def test_a_bound_is_a_number_or_a_models_value_moved(text: str, bound: float | None) -> None:
    found = Constraint.parse(text).bound(VALUES, PARENTS, "maximize")
    assert found == (None if bound is None else pytest.approx(bound))


def test_the_best_parent_of_a_loss_is_the_lowest() -> None:
    assert Constraint.parse("ppl <= best_parent").bound(VALUES, PARENTS, "minimize") == 0.5
    assert Constraint.parse("ppl <= best_parent").bound({}, PARENTS, "minimize") is None


@pytest.mark.parametrize(
    "text", ["", "mmlu", "mmlu > 0.5", "mmlu = 1", "mmlu >= best_parent * 2", ">= 1", "a >= b - c"]
)
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME >= NUMBER"):
        Constraint.parse(text)


@given(
    st.sampled_from([">=", "<="]),
    st.sampled_from([None, "best_parent", "base", "fine-tune.2"]),
    st.integers(-9999, 9999).map(lambda n: n / 1000),
)
def test_written_and_read_again_it_is_the_same(
    relation: str, reference: str | None, offset: float
) -> None:
    constraint = Constraint("a:b", relation, reference, offset)  # type: ignore[arg-type]
    assert Constraint.parse(str(constraint)) == constraint


def test_a_shortfall_is_positive_where_the_bound_is_missed() -> None:
    at_least, at_most = Constraint.parse("m >= 0.5"), Constraint.parse("m <= 0.5")
    assert at_least.shortfall(0.4, 0.5) == pytest.approx(0.1)
    assert at_most.shortfall(0.4, 0.5) == pytest.approx(-0.1)
