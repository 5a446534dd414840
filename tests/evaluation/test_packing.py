from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from automerge.evaluation import forward
from automerge.evaluation.forward import Path, find_path, log_likelihoods, tree_mask
from automerge.evaluation.packing import (
    UNLIMITED,
    Document,
    Request,
    batches,
    linear_rows,
    packed_rows,
    request,
)
from tests.evaluation.toys import make_model

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6)


def rebuilt(row, pick):
    """The request a row holds, read through its mask and positions alone."""
    mask = tree_mask(torch.tensor([row.segments]), torch.float32)[0, 0] == 0
    last = pick.columns[-1]
    seen = [column for column in range(len(row.tokens)) if mask[last, column]]
    inputs = tuple(row.tokens[column] for column in seen)
    assert [row.positions[column] for column in seen] == list(range(len(seen)))
    assert list(pick.columns) == seen[len(seen) - len(pick.columns) :]
    return inputs


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5))
@example([([0], [0]), ([0], [0, 0, 0, 0]), ([0, 0], [0, 0, 0])])
@settings(deadline=None, max_examples=100)
def test_each_request_can_be_read_back_from_its_row(pairs):
    requests = [request(context, continuation, 8) for context, continuation in pairs]
    rows = packed_rows(requests, range(len(requests)), UNLIMITED)
    picks = [(row, pick) for row in rows for pick in row.picks]
    assert sorted(pick.request for _, pick in picks) == list(range(len(requests)))
    for row, pick in picks:
        assert rebuilt(row, pick) == requests[pick.request].inputs
        assert len(pick.columns) == len(requests[pick.request].targets)
    linear = linear_rows(requests, range(len(requests)))
    assert sum(len(row.tokens) for row in rows) <= sum(len(row.tokens) for row in linear)
    assert not any(row.branches for row in linear)


def test_requests_are_cut_from_the_left_and_lose_their_last_token():
    assert request([1, 2, 3], [4, 5], 10) == Request((1, 2, 3, 4), (4, 5))
    assert request([1, 2, 3], [4, 5], 3) == Request((2, 3, 4), (4, 5))


def test_choices_of_one_token_cost_their_context_only():
    requests = [request([1, 2, 3], [choice], 10) for choice in (4, 5, 6, 7)]
    (row,) = packed_rows(requests, range(4), UNLIMITED)
    assert row.tokens == (1, 2, 3)
    assert not row.branches


def test_unlike_contexts_are_packed_apart():
    requests = [request([1, 2, 3, 4], [c, 8, 8], 20) for c in (5, 6)]
    requests += [request([9], [c, 8, 8], 20) for c in (5, 6)]
    rows = packed_rows(requests, range(4), UNLIMITED)
    assert rows[0].tokens == (1, 2, 3, 4, 5, 8, 6, 8)
    assert [row.tokens[0] for row in rows] == [1, 9]


def test_rows_past_a_sliding_window_stay_linear():
    requests = [request([1, 2, 3, 4, 5], [c, 8, 8], 20) for c in (5, 6)]
    assert packed_rows(requests, range(2), 7)[0].branches
    assert not packed_rows(requests, range(2), 6)[0].branches


def test_batches_hold_every_row_once_within_both_limits():
    requests = [request([1] * n, [2] * (1 + n % 3), 99) for n in range(1, 30)]
    rows = list(enumerate(linear_rows(requests, range(len(requests)))))
    cut = list(batches(rows, 4, 6))
    assert sorted(number for batch in cut for number, _ in batch) == list(range(29))
    for batch in cut:
        assert len(batch) <= 4
        assert len(batch) == 1 or sum(len(p.columns) for _, r in batch for p in r.picks) <= 6


GROUP = Document.of(
    [request([5, 9, 13, 7, 6], choice, 99) for choice in ([4, 8, 8], [9, 8], [7, 7, 9, 4])]
)


@pytest.mark.parametrize(
    ("architecture", "trees"),
    [
        ("llama", True),
        ("gpt2", True),
        ("gpt_neox", True),
        ("gemma2", True),
        ("qwen2", True),
        ("bloom", False),
        ("mamba", False),
    ],
)
def test_trees_are_used_where_the_architecture_honours_them(architecture, trees):
    path = find_path(make_model(architecture), [GROUP])
    assert path.trees is trees
    assert path.head is not None


def test_a_wrong_mask_is_noticed_even_where_attention_hardly_matters(monkeypatch):
    def causal(segments, dtype):
        width = segments.shape[1]
        mask = torch.full((width, width), torch.finfo(dtype).min, dtype=dtype).triu(1)
        return mask.expand(len(segments), 1, width, width)

    model = make_model()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(1e-3)
    assert find_path(model, [GROUP]).trees
    monkeypatch.setattr(forward, "tree_mask", causal)
    assert not find_path(model, [GROUP]).trees


def test_half_precision_models_take_log_softmax_in_float32():
    one_token = [Document.of([request([5, 9, 13, 7], [choice], 99)]) for choice in range(12, 20)]
    model = make_model()
    expected, _ = log_likelihoods(model, Path(), one_token, 8)
    found, _ = log_likelihoods(model.to(torch.bfloat16), Path(), one_token, 8)
    got = torch.tensor([answer.logprob for (answer,) in found])
    assert torch.allclose(got, torch.tensor([a.logprob for (a,) in expected]), atol=0.3)
    assert (got != got.bfloat16().float()).any()
