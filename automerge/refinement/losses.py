"""Losses of next-token predictions, each a value per position.

`entropy`: −Σ p log p of the model's own prediction, without labels (Yang et al. 2024, AdaMerging,
arXiv:2310.02575). `kl`: Σ p log(p / q), p a source's prediction and q the merged model's
(Gauthier-Caron et al. 2024, DAM, arXiv:2410.08371). `nll`: −log p of the token that follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOSSES = ("kl", "entropy", "nll")
TOP = 64
"""How many of a source's likeliest tokens are kept at each position."""
LEAST_LOG = -60.0
"""Log-probabilities of all other tokens together are not told apart below this."""


@dataclass(frozen=True)
class Prediction:
    """A source's predictions: its likeliest tokens (positions, TOP) and their log-probabilities,
    and that of all others together, (positions,), None where there are none."""

    tokens: Tensor
    logs: Tensor
    rest: Tensor | None


def _logs(logits: Tensor) -> Tensor:
    """Return log-probabilities, in single precision at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def prediction(logits: Tensor) -> Prediction:
    """Keep a source's predictions (positions, vocabulary), on the host."""
    logs = _logs(logits)
    top = logs.topk(min(TOP, logs.shape[-1]), dim=-1)
    rest = _rest(logs, top.indices)
    return Prediction(
        top.indices.int().cpu(), top.values.cpu(), None if rest is None else rest.cpu()
    )


def kept_bytes(vocabulary: int) -> int:
    """Return the bytes of a `Prediction` at one position."""
    return 8 * min(TOP, vocabulary) + 4 * (vocabulary > TOP)


def kl(logits: Tensor, source: Prediction) -> Tensor:
    """Return the Kullback-Leibler divergence of the merged model from a source, in nats.

    Tokens beyond the source's likeliest count as one, which makes it smaller at most.

    Args:
        logits: the merged model's, (positions, vocabulary).
        source: the source's predictions at the same positions.
    """
    logs = _logs(logits)
    wanted = source.logs.to(logs.device)
    tokens = source.tokens.to(logs.device).long()
    found = (wanted.exp() * (wanted - logs.gather(-1, tokens))).sum(-1)
    rest = _rest(logs, tokens)
    if source.rest is not None and rest is not None:
        other = source.rest.to(logs.device)
        found = found + other.exp() * (other - rest)
    return found


def _rest(logs: Tensor, tokens: Tensor) -> Tensor | None:
    """Return the log-probability of all tokens but some; None if these are all."""
    if tokens.shape[-1] == logs.shape[-1]:
        return None
    return logs.scatter(-1, tokens, -torch.inf).logsumexp(-1).clamp(min=LEAST_LOG)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of predictions (positions, vocabulary), in nats."""
    logs = _logs(logits)
    return -(logs.exp() * logs).sum(-1)


def nll(logits: Tensor, following: Tensor) -> Tensor:
    """Return −log p of the tokens that follow, (positions,), in nats."""
    logs = _logs(logits)
    return -logs.gather(-1, following[:, None])[:, 0]
