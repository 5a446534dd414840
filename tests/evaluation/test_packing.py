from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from automerge.evaluation.loglikelihood import forward
from automerge.evaluation.loglikelihood.forward import Path, find_path, log_likelihoods, tree_mask
from automerge.evaluation.loglikelihood.packing import (
    Layout,
    Limits,
    Request,
    batches,
    request,
    unique_tokens,
)
from tests.evaluation.toys import make_model

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6)
documents = st.lists(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5), max_size=4)
LAYOUTS = {
    "linear": Layout(),
    "trees": Layout(trees=True, pairs_per_token=4),
    "short trees": Layout(trees=True, max_position=3),
    "prefixes": Layout(trees=True, prefixes=True, pairs_per_token=1, min_prefix=1, min_sharers=2),
}


def rebuilt(prefix, row, pick):
    """The request a row holds, read through its mask and positions alone."""
    mask = tree_mask(torch.tensor([row.ends]), len(prefix), torch.float32)[0, 0] == 0
    assert mask[:, : len(prefix)].all()
    last = pick.columns[-1]
    seen = [column for column in range(len(row.tokens)) if mask[last, len(prefix) + column]]
    positions = [row.positions[column] for column in seen]
    assert positions == list(range(len(prefix), len(prefix) + len(seen)))
    assert list(pick.columns) == seen[len(seen) - len(pick.columns) :]
    return (*prefix, *(row.tokens[column] for column in seen))


@pytest.mark.sample(1)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@given(pairs=documents, prefix=tokens)
@example(pairs=[[([0], [0]), ([0], [0, 0, 0, 0]), ([0, 0], [0, 0, 0])]], prefix=[0])
@settings(max_examples=100)
def test_each_request_can_be_read_back_from_its_row(layout, pairs, prefix):
    requests, sets = [], []
    for document in pairs:
        own = [request(prefix + context, continuation, 8) for context, continuation in document]
        sets.append(range(len(requests), len(requests) + len(own)))
        requests += own
    groups = layout.groups(requests, sets)
    assert groups[0].prefix == ()
    picks = [(group, row, pick) for group in groups for row in group.rows for pick in row.picks]
    assert sorted(pick.request for *_, pick in picks) == list(range(len(requests)))
    for group, row, pick in picks:
        assert rebuilt(group.prefix, row, pick) == requests[pick.request].inputs
        assert len(pick.columns) == len(requests[pick.request].targets)
        if row.branches or group.prefix:
            assert layout.trees
            assert len(requests[pick.request].inputs) <= layout.max_position
    alone = sum(len(inputs) for own in sets for inputs in {requests[n].inputs for n in own})
    assert unique_tokens(requests) <= count(groups)
    assert layout.prefixes or count(groups) <= alone


def count(groups):
    return sum(len(g.prefix) + sum(len(row.tokens) for row in g.rows) for g in groups)


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=20))
@settings(max_examples=50)
def test_one_row_without_limits_holds_every_token_of_the_trie_once(pairs):
    requests = [request([7, 7, *context], continuation, 99) for context, continuation in pairs]
    nodes = {r.inputs[:n] for r in requests for n in range(1, len(r.inputs) + 1)}
    assert unique_tokens(requests) == len(nodes)
    (group,) = Layout(trees=True, pairs_per_token=10**6).groups(requests, [range(len(requests))])
    (row,) = group.rows
    assert len(row.tokens) == len(nodes)


def test_requests_are_cut_from_the_left_and_lose_their_last_token():
    assert request([1, 2, 3], [4, 5], 10) == Request((1, 2, 3, 4), (4, 5))
    assert request([1, 2, 3], [4, 5], 3) == Request((2, 3, 4), (4, 5))


def test_choices_of_one_token_cost_their_context_only():
    requests = [request([1, 2, 3], [choice], 10) for choice in (4, 5, 6, 7)]
    (group,) = Layout(trees=True).groups(requests, [range(4)])
    (row,) = group.rows
    assert row.tokens == (1, 2, 3)
    assert not row.branches


@pytest.mark.parametrize("trees", [False, True])
def test_duplicate_requests_are_run_once_also_over_documents(trees):
    requests = [request([1, 2, 3], [choice, 8], 10) for choice in (4, 5, 4, 6, 5)]
    groups = Layout(trees=trees).groups(requests, [range(5)])
    assert count(groups) == (6 if trees else 12)


def test_shots_shared_by_all_documents_are_run_once():
    shots = list(range(100, 150))
    requests = [
        request([*shots, 1, document], [choice, 8], 99)
        for document in range(40)
        for choice in (200, 201)
    ]
    layout = Layout(trees=True, prefixes=True, pairs_per_token=100)
    plain, group = layout.groups(requests, [range(len(requests))])
    assert not plain.rows
    assert group.prefix == (*shots, 1)
    assert max(len(row.tokens) for row in group.rows) <= 1.2 * layout.width
    assert count([group]) < 1.1 * unique_tokens(requests)


def test_choices_behind_shots_share_their_document_however_long():
    shots, words = list(range(100, 500)), iter(range(1000, 99_999))
    requests = [
        request([*shots, *document], [choice] * 25, 999)
        for document in ([next(words) for _ in range(60)] for _ in range(40))
        for choice in (1, 2, 3, 4)
    ]
    layout = Layout(trees=True, prefixes=True, pairs_per_token=768)
    groups = layout.groups(requests, [range(len(requests))])
    assert len(groups) == 2
    assert count(groups) == unique_tokens(requests)


def test_the_choices_of_one_document_are_a_row_and_no_prefix():
    requests = [request(range(100), [choice] * 60, 999) for choice in range(200, 208)]
    plain, *groups = Layout(trees=True, prefixes=True, pairs_per_token=768).groups(
        requests, [range(8)]
    )
    assert not groups
    assert count([plain]) < 0.6 * sum(len(r.inputs) for r in requests)


def test_an_item_that_is_one_of_the_shots_keeps_no_other_from_sharing_them():
    shots = list(range(100, 150))
    requests = [request([*shots, n], [choice, 8], 99) for n in range(60) for choice in (200, 201)]
    odd = [request([*shots[:20], 7, 7], [choice, 8], 99) for choice in (200, 201)]
    layout = Layout(trees=True, prefixes=True, pairs_per_token=100)
    plain, group = layout.groups([*requests, *odd], [range(122)])
    assert group.prefix == tuple(shots)
    assert sorted(p.request for row in plain.rows for p in row.picks) == [120, 121]


def test_requests_past_a_sliding_window_stay_alone():
    requests = [request([1, 2, 3, 4, 5], [c, 8, 8], 20) for c in (5, 6)]
    for longest, branches in ((7, True), (6, False)):
        layout = Layout(True, True, longest, pairs_per_token=0, min_prefix=1, min_sharers=2)
        groups = layout.groups(requests, [range(2)])
        assert (len(groups) > 1) is branches
        layout = Layout(trees=True, max_position=longest)
        (group,) = layout.groups(requests, [range(2)])
        assert group.rows[0].branches is branches


def test_batches_hold_every_row_once_within_the_limits():
    requests = [request([1] * n, [2 + n] * (1 + n % 3), 99) for n in range(1, 30)]
    (group,) = Layout().groups(requests, [range(len(requests))])
    cut = list(batches(group.rows, 0, Limits(tokens=120, picked=6, masked=10**9)))
    assert sorted(p.request for batch in cut for row in batch for p in row.picks) == list(range(29))
    for batch in cut:
        assert len(batch) == 1 or len(batch) * max(len(row.tokens) for row in batch) <= 120
        assert len(batch) == 1 or sum(len(p.columns) for r in batch for p in r.picks) <= 6


GROUP = [request([5, 9, 13, 7, 6], choice, 99) for choice in ([4, 8, 8], [9, 8], [7, 7, 9, 4])]


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
    path = find_path(make_model(architecture), GROUP)
    assert path.layout.trees is trees
    assert path.layout.prefixes is trees
    assert path.head is not None


def test_a_wrong_mask_is_noticed_even_where_attention_hardly_matters(monkeypatch):
    def causal(ends, before, dtype):
        return tree_mask(torch.full_like(ends, ends.shape[1]), before, dtype)

    model = make_model()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(1e-3)
    assert find_path(model, GROUP).layout.trees
    monkeypatch.setattr(forward, "tree_mask", causal)
    assert not find_path(model, GROUP).layout.trees


@pytest.mark.parametrize("what", ["device", "host"])
def test_memory_that_runs_out_says_nothing_of_trees(what):
    """A GPU that is full for a moment must not make a whole study run without them."""
    refused = {
        "device": torch.OutOfMemoryError("a test's device has no more memory"),
        "host": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    }[what]
    model = make_model()

    def refuse(module, args, kwargs):
        if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].dim() == 4:
            raise refused

    handle = model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    with pytest.raises(type(refused)):
        find_path(model, GROUP)
    handle.remove()
    assert find_path(model, GROUP).layout.trees


def test_half_precision_models_take_log_softmax_in_float32():
    one_token = [request([5, 9, 13, 7], [choice], 99) for choice in range(12, 20)]
    model = make_model()
    expected, _ = log_likelihoods(model, Path(), one_token, 8)
    found, _ = log_likelihoods(model.to(torch.bfloat16), Path(), one_token, 8)
    got = torch.tensor([answer.logprob for answer in found])
    assert torch.allclose(got, torch.tensor([a.logprob for a in expected]), atol=0.3)
    assert (got != got.bfloat16().float()).any()
