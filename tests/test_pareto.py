"""Laws of dominance, hypervolume, knee and subset selection."""

from __future__ import annotations

import itertools
import math

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automerge import pareto

# Few distinct values, so that ties and copies are common; sometimes not finite.
NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 0.5 + 1e-12, 1.0, 2.0])
LOSSES = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(0, 9), st.just(m)), elements=NUMBERS)
)
BROKEN = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 9), st.just(m)),
        elements=NUMBERS | st.sampled_from([math.nan, math.inf, -math.inf]),
    )
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(
        x < y for x, y in zip(a, b, strict=True)
    )


def naive_front(losses: np.ndarray) -> list[bool]:
    rows = [row if np.isfinite(row).all() else None for row in losses]
    return [
        row is not None and not any(other is not None and dominates(other, row) for other in rows)
        for row in rows
    ]


def naive_hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """Inclusion and exclusion over every set of boxes."""
    boxes = [row for row in losses if np.isfinite(row).all() and (row < reference).all()]
    return math.fsum(
        (-1) ** (size + 1) * float(np.prod(reference - np.max(chosen, axis=0)))
        for size in range(1, len(boxes) + 1)
        for chosen in itertools.combinations(boxes, size)
    )


@given(BROKEN)
def test_nondominated_agrees_with_comparing_every_pair(losses: np.ndarray) -> None:
    assert pareto.nondominated(losses).tolist() == naive_front(losses)


@given(BROKEN)
def test_a_front_updated_point_by_point_holds_the_nondominated_rows_once(
    losses: np.ndarray,
) -> None:
    front = np.empty((0, losses.shape[1]))
    for point in losses:
        front = pareto.updated_front(front, point)
    distinct = {tuple(row) for row in losses[pareto.nondominated(losses)].tolist()}
    assert len(front) == len(distinct)
    assert set(map(tuple, front.tolist())) == distinct


@given(LOSSES)
def test_nondominated_agrees_with_moocore(losses: np.ndarray) -> None:
    if len(losses):
        expected = moocore.is_nondominated(losses, keep_weakly=True)
        assert pareto.nondominated(losses).tolist() == expected.tolist()


@given(BROKEN, st.randoms(use_true_random=False))
def test_the_front_ignores_order(losses: np.ndarray, random) -> None:
    order = list(range(len(losses)))
    random.shuffle(order)
    assert (pareto.nondominated(losses)[order] == pareto.nondominated(losses[order])).all()


def test_equal_points_are_all_on_the_front() -> None:
    assert pareto.nondominated([[0, 1], [0, 1], [1, 1]]).tolist() == [True, True, False]


def test_points_that_are_not_finite_are_never_on_the_front() -> None:
    rows = [[math.nan, 0.0], [-math.inf, 0.0], [5.0, 5.0]]
    assert pareto.nondominated(rows).tolist() == [False, False, True]


@given(BROKEN)
def test_layers_hold_every_valid_point_once_and_each_is_the_front_of_the_rest(
    losses: np.ndarray,
) -> None:
    layers = pareto.layers(losses)
    left = list(np.flatnonzero(pareto.valid(losses)))
    for layer in layers:
        front = [i for i, keep in zip(left, naive_front(losses[left]), strict=True) if keep]
        assert layer.tolist() == front
        left = [i for i in left if i not in front]
    assert not left


@given(BROKEN)
def test_hypervolume_agrees_with_inclusion_and_exclusion(losses: np.ndarray) -> None:
    reference = np.full(losses.shape[1], 1.5)
    expected = naive_hypervolume(losses, reference)
    assert pareto.hypervolume(losses, reference) == pytest.approx(expected, abs=1e-9)


def test_a_hypervolume_worked_by_hand() -> None:
    # Steps of a staircase: 3*1 + 2*1 + 1*1.
    assert pareto.hypervolume([[0, 2], [1, 1], [2, 0], [2, 2]], [3, 3]) == pytest.approx(6.0)


@given(LOSSES.filter(len))
def test_a_further_point_never_lowers_the_hypervolume(losses: np.ndarray) -> None:
    reference = np.full(losses.shape[1], 1.5)
    assert pareto.hypervolume(losses[:-1], reference) <= (
        pareto.hypervolume(losses, reference) + 1e-12
    )


@given(BROKEN)
def test_hypervolume_history_is_the_hypervolume_of_every_beginning(losses: np.ndarray) -> None:
    reference = np.full(losses.shape[1], 1.5)
    history = pareto.hypervolume_history(losses, reference)
    expected = [pareto.hypervolume(losses[: i + 1], reference) for i in range(len(losses))]
    assert history.shape == (len(losses),)
    np.testing.assert_allclose(history, expected, atol=1e-12)
    assert (np.diff(history) >= 0).all()


@given(LOSSES.filter(len))
def test_every_point_lies_below_the_reference_point(losses: np.ndarray) -> None:
    assert (losses < pareto.reference_point(losses)).all()


def test_the_reference_point_is_a_tenth_of_the_range_behind_the_worst() -> None:
    assert pareto.reference_point([[0, 5, -2], [1, 5, -2]]).tolist() == pytest.approx(
        [1.1, 5.5, -1.8]
    )


@given(BROKEN)
def test_the_knee_is_on_the_front_and_nearest_the_ideal_point(losses: np.ndarray) -> None:
    knee = pareto.knee(losses)
    front = np.flatnonzero(naive_front(losses))
    if not front.size:
        assert knee is None
        return
    assert knee in front
    low, high = losses[front].min(axis=0), losses[front].max(axis=0)
    span = np.where(high > low, high - low, 1)
    distance = ((losses - low) / span).max(axis=1)
    assert distance[knee] <= distance[front].min() + 1e-12


def test_the_knee_of_a_bent_front_is_its_corner() -> None:
    assert pareto.knee([[0, 1], [0.1, 0.1], [1, 0], [0.5, 0.5]]) == 1


def test_on_a_concave_front_the_largest_distance_counts_before_the_sum() -> None:
    # Sums are 1, 1.2 and 1; largest distances 1, 0.6 and 1.
    assert pareto.knee([[0, 1], [0.6, 0.6], [1, 0]]) == 1


@given(BROKEN, st.integers(0, 12))
def test_greedy_subset_chooses_valid_points_layer_by_layer(losses: np.ndarray, k: int) -> None:
    reference = np.full(losses.shape[1], 1.5)
    chosen = pareto.greedy_subset(losses, k, reference).tolist()
    assert len(chosen) == len(set(chosen)) == min(k, int(pareto.valid(losses).sum()))
    layer_of = {i: n for n, layer in enumerate(pareto.layers(losses)) for i in layer.tolist()}
    depths = [layer_of[i] for i in chosen]
    assert depths == sorted(depths)


@given(LOSSES, st.integers(1, 6))
def test_every_greedy_choice_gains_as_much_as_any_other(losses: np.ndarray, k: int) -> None:
    reference = np.full(losses.shape[1], 1.5)
    front = np.flatnonzero(pareto.nondominated(losses)).tolist()
    chosen = [i for i in pareto.greedy_subset(losses, k, reference).tolist() if i in front]
    for step in range(len(chosen)):
        volumes = [
            pareto.hypervolume(losses[[*chosen[:step], i]], reference)
            for i in front
            if i not in chosen[:step]
        ]
        reached = pareto.hypervolume(losses[chosen[: step + 1]], reference)
        assert reached == pytest.approx(max(volumes), abs=1e-12)


def test_one_objective_is_a_front_of_the_smallest() -> None:
    losses = [[3.0], [1.0], [2.0]]
    assert pareto.nondominated(losses).tolist() == [False, True, False]
    assert pareto.hypervolume(losses, [4.0]) == 3.0
    assert pareto.greedy_subset(losses, 2, [4.0]).tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(3,), (2, 0), (1, 1, 1)])
def test_arrays_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        pareto.nondominated(np.zeros(shape))


@pytest.mark.parametrize("reference", [[1.0], [1.0, math.nan], [1.0, 2.0, 3.0]])
def test_a_reference_point_of_another_size_or_not_finite_is_refused(
    reference: list[float],
) -> None:
    with pytest.raises(ValueError, match="reference point"):
        pareto.hypervolume([[0.0, 0.0]], reference)


def test_no_valid_point_has_no_ideal_or_reference_point() -> None:
    for function in (pareto.ideal_nadir, pareto.reference_point):
        with pytest.raises(ValueError, match="no row"):
            function([[math.nan, 1.0]])
