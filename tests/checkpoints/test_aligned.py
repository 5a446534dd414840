"""Each rule of filling rows, by numbers worked by hand."""

from __future__ import annotations

import torch

from automerge.checkpoints.vocabularies.aligned import ABSENT, Rows, rows_of

STORED = {
    "base": torch.tensor([[1.0], [2.0], [3.0]]),
    "left": torch.tensor([[10.0], [20.0], [30.0], [40.0]]),
    "right": torch.tensor([[100.0], [200.0]], dtype=torch.float64),
    "third": torch.tensor([[1000.0]], dtype=torch.bfloat16),
}
# Rows of the result:  own    both   left's  left's and right's  nobody's
ROWS = Rows(
    "base",
    {
        "base": (0, 2, ABSENT, ABSENT, ABSENT),
        "left": (1, 0, 2, 3, ABSENT),
        "right": (0, ABSENT, ABSENT, 1, ABSENT),
        "third": (0, ABSENT, ABSENT, ABSENT, ABSENT),
    },
)
MEAN = 120.0  # of left's 40 and right's 200


def filled(model: str) -> list[float]:
    return ROWS.fill(model, STORED.__getitem__).flatten().tolist()


def test_the_models_own_row_comes_first():
    assert filled("left")[:4] == [20.0, 10.0, 30.0, 40.0]


def test_then_the_bases_row_even_where_others_have_one_too():
    assert filled("right")[1] == 3.0
    assert filled("third")[:2] == [1000.0, 3.0]


def test_then_the_only_owners_row():
    assert filled("base")[2] == filled("right")[2] == filled("third")[2] == 30.0


def test_then_the_mean_of_the_owners():
    assert filled("base")[3] == filled("third")[3] == MEAN
    assert filled("right")[3] == 200.0


def test_what_nobody_has_is_the_mean_of_the_bases_rows():
    assert {filled(model)[4] for model in STORED} == {2.0}


def test_each_model_keeps_its_dtype_and_its_tensor():
    before = {name: tensor.clone() for name, tensor in STORED.items()}
    for name, tensor in STORED.items():
        assert ROWS.fill(name, STORED.__getitem__).dtype == tensor.dtype
    assert all(torch.equal(tensor, STORED[name]) for name, tensor in before.items())


def test_padding_stays_padding_only_where_neither_has_a_token():
    result, own = {"a": 0, "b": 1, "new": 2}, {"a": 1, "b": 0, "old": 4}
    assert rows_of(result, own, stored=6, n_rows=7) == (1, 0, ABSENT, 3, ABSENT, 5, ABSENT)


def test_equal_vocabularies_are_the_identity():
    ids = {"a": 0, "b": 2}
    assert rows_of(ids, ids, stored=5, n_rows=5) == (0, 1, 2, 3, 4)
