"""What candidates have in common: against ridge regression, truth and the order of entry."""

from __future__ import annotations

import numpy as np
import pytest

from automerge.estimation import factors
from automerge.estimation.factors import FACTORS, FIRST_FIT, LAST_FIT, Factors

N_ITEMS, N_SEEN = 120, 40
GROUPS = np.repeat([0, 1], N_ITEMS // 2)


def world(seed: int, candidates: int, noise: float = 0.3) -> np.ndarray:
    """Values of rank two on items of two objectives, whose units differ by a thousand."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(candidates, 2)) @ rng.normal(size=(2, N_ITEMS))
    table += rng.normal(size=N_ITEMS) + noise * rng.normal(size=table.shape)
    return np.where(GROUPS, 1000 * table + 500, table)


def draws(seed: int, candidates: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.sort(rng.permutation(N_ITEMS)[:N_SEEN]) for _ in range(candidates)]


def learned(table: np.ndarray, seen: list[np.ndarray]) -> Factors:
    model = Factors(GROUPS)
    for row, columns in zip(table, seen, strict=True):
        model.add(columns, row[columns])
    return model


def test_unseen_values_are_predicted_nearly_as_well_as_the_noise_allows() -> None:
    table = world(0, 80)
    seen = draws(0, 80)
    model = learned(table, seen)
    model.settle()
    for group, unit in ((0, 1.0), (1, 1000.0)):
        off = []
        for candidate in range(80):
            unseen = np.setdiff1d(np.flatnonzero(group == GROUPS), seen[candidate])
            off.append(model.predict(candidate).values[unseen] - table[candidate, unseen])
        error = np.sqrt(np.mean(np.concatenate(off) ** 2)) / unit
        # The noise is 0.3; items' means alone leave the factors' √2
        assert 0.3 < error < 0.5


def test_predicted_variances_are_those_of_the_errors_seen_and_unseen() -> None:
    squares: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(4):
        table, seen = world(seed, 60), draws(seed, 60)
        model = learned(table, seen)
        for candidate in range(60):
            found = model.predict(candidate)
            scaled = (found.values - table[candidate]) ** 2 / found.variances
            known = np.isin(np.arange(N_ITEMS), seen[candidate])
            for kind in squares:
                squares[kind] += scaled[known == kind].tolist()
    # 4 × 60 × 40 or more values: their mean square is known to 3 % were they independent
    assert np.mean(squares[True]) == pytest.approx(1, abs=0.25)
    assert np.mean(squares[False]) == pytest.approx(1, abs=0.25)


def test_a_value_has_no_part_in_its_own_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the noise of its item, which weighs values and is held here."""
    monkeypatch.setattr(Factors, "_renew_noise", lambda self: None)
    table, seen = world(1, FIRST_FIT + 3), draws(1, FIRST_FIT + 3)
    candidate = FIRST_FIT + 2
    item = int(seen[candidate][0])
    before = learned(table, seen).predict(candidate)
    table[candidate, item] += 1e3
    after = learned(table, seen).predict(candidate)
    assert after.values[item] == pytest.approx(before.values[item], abs=1e-6)
    others = np.delete(np.arange(N_ITEMS), item)
    assert np.abs(after.values[others] - before.values[others]).max() > 1


def test_items_learned_one_by_one_are_those_learned_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Recursive least squares, with the factors held as they are, is ridge regression."""
    table, seen = world(2, FIRST_FIT + 5), draws(2, FIRST_FIT + 5)
    monkeypatch.setattr(factors, "NEXT_FIT", 100.0)
    model = learned(table, seen)
    items, noise = model._items.copy(), model._noise.copy()
    model._learn_items()
    np.testing.assert_allclose(items, model._items, atol=1e-9)
    assert noise.shape == model._noise.shape


def test_in_the_end_the_order_of_entry_does_not_matter() -> None:
    table, seen = world(3, 40), draws(3, 40)
    order = np.random.default_rng(3).permutation(40)
    one, other = learned(table, seen), learned(table[order], [seen[k] for k in order])
    one.settle()
    other.settle()
    for place, candidate in enumerate(order):
        found, expected = other.predict(place), one.predict(int(candidate))
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-6, atol=1e-6)


def test_alike_candidates_and_items_without_spread_are_no_trouble() -> None:
    model = Factors(GROUPS)
    for _ in range(FIRST_FIT + 10):
        model.add(np.arange(30), np.ones(30))
    model.settle()
    found = model.predict(4)
    np.testing.assert_allclose(found.values[:60], 1.0, atol=1e-9)
    assert np.isfinite(found.values).all()
    assert (found.variances > 0).all()


def test_few_candidates_are_not_learned_from() -> None:
    table, seen = world(4, FIRST_FIT), draws(4, FIRST_FIT)
    assert not learned(table[:-1], seen[:-1]).ready
    assert learned(table, seen).ready


def test_beyond_the_last_fit_candidates_are_still_learned_from() -> None:
    table, seen = world(5, LAST_FIT + 40), draws(5, LAST_FIT + 40)
    model = learned(table, seen)
    model.settle()
    off = model.predict(LAST_FIT + 39).values - table[-1]
    assert np.sqrt(np.mean(off[: N_ITEMS // 2] ** 2)) < 0.45
    assert model._factors.shape == (LAST_FIT + 40, FACTORS)
