"""What is read off logits is what lm-eval reads: log-softmax in float32, and its first maximum."""

from __future__ import annotations

import pytest
import torch

from automerge.evaluation.loglikelihood.forward import _read


def flat(vocabulary: int) -> torch.Tensor:
    """Logits that differ by less than log-softmax keeps, the largest not first."""
    rows = torch.ones(3, vocabulary)
    rows[0, 7] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    rows[1, 7] = 1.0 + 1e-3
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", [1, 2**20])
def test_greedy_is_the_first_of_the_largest_rounded_log_probabilities(monkeypatch, dtype, step):
    monkeypatch.setattr("automerge.evaluation.loglikelihood.forward.CACHED_LOGITS", step * 40_000)
    torch.manual_seed(0)
    logits = torch.cat([flat(40_000), torch.randn(5, 40_000)]).to(dtype)
    expected = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    first = expected.argmax(dim=-1)
    assert (first[0], first[2]) == (0, 0)
    places = [place for place in range(len(logits)) for _ in range(3)]
    targets = [t for row in first.tolist() for t in (row, 7, 0)]
    values, greedy = _read(logits.clone(), places, targets)
    assert greedy == [bool(first[p] == t) for p, t in zip(places, targets, strict=True)]
    torch.testing.assert_close(torch.tensor(values), expected[places, targets])
