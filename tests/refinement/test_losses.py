"""Losses per position against PyTorch's distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from automerge.refinement import losses


def logits(seed: int, vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn((6, vocabulary), generator=generator, dtype=torch.float64)


def test_entropy_and_nll_are_those_of_pytorch() -> None:
    found, following = logits(0, 50), torch.arange(6)
    expected = Categorical(logits=found)
    torch.testing.assert_close(losses.entropy(found), expected.entropy())
    torch.testing.assert_close(losses.nll(found, following), -expected.log_prob(following))


def test_kl_is_that_of_pytorch_where_all_tokens_are_kept() -> None:
    source, merged = logits(0, losses.TOP), logits(1, losses.TOP)
    found = losses.kl(merged, losses.prediction(source))
    expected = kl_divergence(Categorical(logits=source), Categorical(logits=merged))
    torch.testing.assert_close(found, expected)


def test_kl_of_the_likeliest_tokens_is_that_of_these_and_all_others_as_one() -> None:
    source, merged = logits(0, 200), logits(1, 200)
    found = losses.kl(merged, losses.prediction(source))
    p, q = source.softmax(-1), merged.softmax(-1)
    whole = kl_divergence(Categorical(p), Categorical(q))
    for row in range(len(p)):
        kept = p[row].argsort(descending=True)[: losses.TOP]
        joined = [torch.cat([x[row, kept], 1 - x[row, kept].sum()[None]]) for x in (p, q)]
        expected = (joined[0] * (joined[0] / joined[1]).log()).sum()
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-9)
    assert (found <= whole).all()


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_kl_of_equal_predictions_is_0_and_flat(scale: float) -> None:
    source = (scale * logits(0, 200)).float().requires_grad_(True)
    found = losses.kl(source, losses.prediction(source.detach()))
    assert found.abs().max() < 1e-5
    [slope] = torch.autograd.grad(found.sum(), [source])
    assert slope.abs().max() < 1e-5


def test_half_precision_is_computed_in_single() -> None:
    half = logits(0, 50).bfloat16()
    torch.testing.assert_close(losses.entropy(half), losses.entropy(half.float()))
