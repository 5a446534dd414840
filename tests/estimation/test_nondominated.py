"""The probability of being non-dominated, against a loop over resampled items."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from automerge.estimation import bootstrap
from automerge.estimation.nondominated import nondominated_probability


def naive(
    losses: list[NDArray[np.float64]], groups: list[int], draws: int, seed: int
) -> list[float]:
    rng = np.random.default_rng(seed)
    models, pairs = range(len(losses[0])), list(zip(losses, groups, strict=True))
    wins = [0] * len(models)
    for _ in range(draws):
        picked = {
            g: rng.choice(m.shape[1], m.shape[1]) for m, g in zip(losses, groups, strict=True)
        }
        means = [m[:, picked[g]].mean(axis=1) for m, g in pairs]
        for a in models:
            dominated = any(
                all(mean[b] <= mean[a] for mean in means)
                and any(mean[b] < mean[a] for mean in means)
                for b in models
            )
            wins[a] += not dominated
    return [w / draws for w in wins]


def binary(rng: np.random.Generator, models: int, items: int) -> NDArray[np.float64]:
    return (rng.random((models, items)) < rng.random((models, 1)) * 0.2 + 0.4).astype(np.float64)


def test_it_agrees_with_a_loop_over_resampled_items() -> None:
    rng = np.random.default_rng(3)
    losses = [binary(rng, 5, 40), binary(rng, 5, 40), rng.normal(size=(5, 25))]
    expected = naive(losses, [0, 0, 7], 4000, 1)
    found = nondominated_probability(losses, [0, 0, 7], draws=20_000)
    assert 0.05 < min(expected) < max(expected) < 1
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / 4000))


def test_two_models_and_one_item_that_decides_are_worked_by_hand() -> None:
    # The second model wins unless its one better item is not drawn: (1 - 1/n)^n; then they tie.
    n = 6
    losses = [np.array([[1.0, *[0.0] * (n - 1)], [0.0] * n])]
    found = nondominated_probability(losses, [0], draws=100_000)
    assert found[1] == 1.0
    assert found[0] == pytest.approx((1 - 1 / n) ** n, abs=0.005)


def test_objectives_of_one_group_share_the_resample() -> None:
    # On the same items what one objective gains the other loses: neither can ever dominate.
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(2, 30))
    shared = nondominated_probability([losses, -losses], [0, 0])
    assert shared.tolist() == [1.0, 1.0]
    apart = nondominated_probability([losses, -losses], [0, 1])
    assert max(apart) < 1.0


def test_models_share_the_resample() -> None:
    # Better on every item is better in every resample, however noisy the items are.
    losses = np.random.default_rng(0).normal(size=(1, 30)) * 100 + np.array([[0.0], [0.01]])
    assert nondominated_probability([losses], [0]).tolist() == [1.0, 0.0]


def test_models_equal_up_to_rounding_do_not_dominate_each_other() -> None:
    row = np.random.default_rng(5).normal(size=997) * 1e3
    losses = np.stack([row, np.nextafter(row, np.inf), np.nextafter(row, -np.inf)])
    assert nondominated_probability([losses, losses], [0, 1]).tolist() == [1.0] * 3


def test_the_seed_decides_and_the_order_of_models_does_not_matter() -> None:
    rng = np.random.default_rng(8)
    losses = [binary(rng, 6, 50), binary(rng, 6, 30)]
    first = nondominated_probability(losses, [0, 1], draws=500, seed=4)
    np.testing.assert_array_equal(
        first, nondominated_probability(losses, [0, 1], draws=500, seed=4)
    )
    turned = [matrix[::-1] for matrix in losses]
    np.testing.assert_array_equal(
        first[::-1], nondominated_probability(turned, [0, 1], draws=500, seed=4)
    )
    assert (first != nondominated_probability(losses, [0, 1], draws=500, seed=5)).any()


def test_blocks_add_up_to_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [binary(np.random.default_rng(2), 4, 50)]
    whole = nondominated_probability(losses, [0], draws=20_001)
    monkeypatch.setattr(bootstrap, "MAX_ELEMENTS", 50 * 64)
    np.testing.assert_allclose(
        whole, nondominated_probability(losses, [0], draws=20_001), atol=0.03
    )


def test_a_single_model_is_always_on_the_front() -> None:
    assert nondominated_probability([np.zeros((1, 3))], [0]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("losses", "groups", "says"),
    [
        ([], [], "0 loss matrices"),
        ([np.zeros((2, 3))], [0, 1], "for 2 groups"),
        ([np.zeros((2, 3)), np.zeros((3, 3))], [0, 1], "with 2 models"),
        ([np.zeros((2, 0))], [0], "at least one item"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], [0, 0], "3 and 4 items"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    losses: list[NDArray[np.float64]], groups: list[int], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        nondominated_probability(losses, groups)
