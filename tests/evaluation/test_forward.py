"""What is read off logits is what lm-eval reads: log-softmax in float32, and its first maximum."""

from __future__ import annotations

import pytest
import torch

from automerge.evaluation.loglikelihood.backward import Chosen
from automerge.evaluation.loglikelihood.forward import read_targets


def flat(vocabulary: int) -> torch.Tensor:
    """Logits that differ by less than log-softmax keeps, the largest not first."""
    rows = torch.ones(3, vocabulary)
    rows[0, 7] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    rows[1, 7] = 1.0 + 1e-3
    return rows


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", [1, 2**20])
def test_greedy_is_the_first_of_the_largest_rounded_log_probabilities(
    monkeypatch, dtype, step, keep
):
    monkeypatch.setattr("automerge.evaluation.loglikelihood.forward.CACHED_LOGITS", step * 40_000)
    torch.manual_seed(0)
    logits = torch.cat([flat(40_000), torch.randn(5, 40_000)]).to(dtype)
    expected = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    first = expected.argmax(dim=-1)
    assert (first[0], first[2]) == (0, 0)
    places = [place for place in range(len(logits)) for _ in range(3)]
    targets = [t for row in first.tolist() for t in (row, 7, 0)]
    before = logits.clone()
    values, greedy, sums = read_targets(logits, torch.tensor(places), torch.tensor(targets), keep)
    assert greedy.tolist() == [bool(first[p] == t) for p, t in zip(places, targets, strict=True)]
    torch.testing.assert_close(values, expected[places, targets])
    torch.testing.assert_close(sums, before.float().logsumexp(dim=-1))
    assert torch.equal(logits, before) or not keep


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_runs_backwards_has_the_gradient_of_log_softmax(monkeypatch, dtype):
    """Also where a place predicts several targets, or the same one twice, and others none."""
    monkeypatch.setattr("automerge.evaluation.loglikelihood.forward.CACHED_LOGITS", 3 * 50)
    torch.manual_seed(0)
    logits = torch.randn(8, 50).to(dtype).requires_grad_(True)
    read, wanted = torch.tensor([0, 0, 3, 3, 7]), torch.tensor([4, 9, 2, 2, 0])
    factors = torch.randn(5)
    values, _ = Chosen.apply(logits, read, wanted)
    [found] = torch.autograd.grad(values @ factors, logits)
    exact = logits.detach().double().requires_grad_(True)
    plain = exact.log_softmax(dim=-1)[read, wanted] @ factors.double()
    [expected] = torch.autograd.grad(plain, exact)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), expected, rtol=0.02 if dtype != torch.float32 else 1e-5, atol=1e-6
    )
