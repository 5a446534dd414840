"""What is kept for a pass backwards: predicted, and the same results with less of it."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from automerge.evaluation.base import NoRoom
from automerge.evaluation.loglikelihood.backward import COPIES, run_backwards
from automerge.evaluation.loglikelihood.forward import find_path
from automerge.evaluation.loglikelihood.graph import (
    Graph,
    _saved,
    lean_layers,
    leanable_layers,
    measured,
)
from automerge.evaluation.loglikelihood.packing import Request
from tests.merging.test_architectures import CONFIGS

TOKENS = torch.arange(3, 27).reshape(2, 12)
VOCABULARY = 64


def made(kind: str, **settings: int) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    config.update(settings)
    model: hf.PreTrainedModel = hf.AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(True)


def gradients(model):
    model.zero_grad()
    logits = model(input_ids=TOKENS, use_cache=False).logits
    logits.log_softmax(-1)[..., 5].sum().backward()
    return logits.detach(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3 moe", "gemma2", "phi3", "gpt neox"])
def test_layers_that_keep_their_inputs_only_compute_the_same(kind):
    model = made(kind)
    logits, grads = gradients(model)
    state = [(m.training, getattr(m, "gradient_checkpointing", None)) for m in model.modules()]
    assert len(leanable_layers(model)) == model.config.num_hidden_layers
    with lean_layers(model):
        lean_logits, lean_grads = gradients(model)
    assert torch.equal(logits, lean_logits)
    for one, other in zip(grads, lean_grads, strict=True):
        assert one is other is None or torch.equal(one, other)
    after = [(m.training, getattr(m, "gradient_checkpointing", None)) for m in model.modules()]
    assert state == after


def test_layers_whose_code_asks_for_the_mode_are_left_alone():
    config = hf.FalconConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        attention_dropout=0.5, hidden_dropout=0.5,
    )  # fmt: skip
    model = hf.FalconForCausalLM(config).eval()
    assert leanable_layers(model) == []
    with lean_layers(model):
        one, other = (model(input_ids=TOKENS).logits for _ in range(2))
    assert torch.equal(one, other)


def units(n: int, width: int = 9) -> list[list[Request]]:
    """Items of two choices, each after a context of its own."""
    found = []
    for i in range(n):
        context = tuple((7 * i + 3 * k) % VOCABULARY for k in range(width))
        choices = [((i + c) % VOCABULARY, (5 + c) % VOCABULARY) for c in (0, 1)]
        found.append([Request((*context, *choice[:-1]), choice) for choice in choices])
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_what_a_batch_keeps_is_predicted(kind):
    model = made(kind)
    requests = [request for unit in units(6, 23) for request in unit]
    path = find_path(model.requires_grad_(False), requests)
    model.requires_grad_(True)
    [group, *_] = path.layout.groups(requests, [range(len(requests))])
    kept = measured(model, path)
    true = _saved(model, path, requests, group.rows)
    with lean_layers(model):
        lean, lean_true = measured(model, path), _saved(model, path, requests, group.rows)
    assert true == pytest.approx(kept(group.rows), rel=0.1)
    assert lean_true < true / 3
    assert lean_true <= 1.1 * lean(group.rows)


def test_what_a_batch_keeps_is_measured_again_for_other_numbers_of_experts_per_token():
    """A live model may become another mixture with as many parameters."""
    model = made("qwen3 moe")
    requests = [request for unit in units(6, 23) for request in unit]
    path = find_path(model.requires_grad_(False), requests)
    graph = Graph(model.requires_grad_(True), path, 1 << 30)
    found = []
    for per_token in (1, 3, 1):
        for module in model.modules():
            if hasattr(module, "top_k"):
                module.top_k = per_token
        model.config.num_experts_per_tok = per_token
        found.append(graph._kept(lean=False).per_token)
        assert found[-1] == measured(model, path).per_token
    assert found[0] == found[2] < found[1]


def run(model, path, items, room):
    totals = [torch.zeros_like(p) for p in model.parameters()]
    batches = []

    def backward(name, loss, keep):
        parts = torch.autograd.grad(
            loss, list(model.parameters()), retain_graph=keep, allow_unused=True
        )
        for total, part in zip(totals, parts, strict=True):
            if part is not None:
                total += part
        batches.append(name)

    def derivatives(number, values):
        return {"one": [1.0, -0.5], "other": [0.25 * number, 1.0]}

    graph = None if room is None else Graph(model, path, room)
    answers, _ = run_backwards(
        model, path, items, [()] * len(items), derivatives, backward, 64, graph
    )
    return answers, totals, len(batches) // 2


def least(model, path, rows, lean):
    """The least room in which a batch fits."""
    low, high = 0, 1 << 30
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if Graph(model, path, middle).fits(rows, lean, COPIES)
            else (middle + 1, high)
        )
    return low


@pytest.mark.slow
def test_with_less_room_batches_are_smaller_then_layers_run_again_and_gradients_stay():
    model, items = made("llama", num_hidden_layers=6).double(), units(7)
    requests = [request for unit in items for request in unit]
    path = find_path(model.requires_grad_(False), requests)
    model.requires_grad_(True)
    [group, *_] = path.layout.groups(items[0], [range(2)])
    alone, lean = (least(model, path, group.rows, lean) for lean in (False, True))
    assert lean < alone / 2
    part = model.model.layers[0].mlp
    calls = []
    part.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    answers, expected, n = run(model, path, items, None)
    assert (n, len(calls)) == (1, 1)
    # Two rows are measured, with and without; each of the two losses runs layers again.
    for room, probes, again in (
        (10 * alone, 2, 0),
        (2 * alone, 2, 0),
        (alone, 2, 0),
        (alone - 1, 4, 2),
        (lean, 4, 2),
    ):
        calls.clear()
        found, totals, n = run(model, path, items, room)
        assert n == {10 * alone: 1, 2 * alone: 4, alone: 7, lean: 7}.get(room, n) <= 7
        assert len(calls) == probes + n * (1 + again)
        for own, other in zip(found, answers, strict=True):
            assert [a.greedy for a in own] == [b.greedy for b in other]
            assert [a.logprob for a in own] == pytest.approx([b.logprob for b in other], rel=1e-6)
        for one, other in zip(totals, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)
    with pytest.raises(NoRoom):
        run(model, path, items, lean - 1)
