"""Candidates of a pool of adapters: merged one at a time, or run at once over the base.

    OMP_NUM_THREADS=1 python -m experiments.adapters_at_once.measure --shape tiny

One at a time, each candidate's weights W + Σ wᵢ Bᵢ Aᵢ are written into the live model, one fused
product per layer, and its rows are run. At once, the rows of all candidates are one batch, and
every linear layer adds Bᵢ (wᵢ (Aᵢ x)), with each row's own weights wᵢ. Both must give the same
logits. A row is a sequence that is scored, or a token that is generated behind a cache. Random
weights; float32 on a CPU, bfloat16 on a GPU. Prints the processor time (on a GPU, the time) per
candidate of both, and their ratio.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from automerge.bench.shapes import SIZES, empty_model

POOL = 4
"""Adapters of which every candidate has a share."""
HISTORY = 128
"""Tokens whose keys and values are there before a token is generated."""


@dataclass(frozen=True)
class Site:
    """A linear layer, its weight in the base, and all adapters' factors side by side."""

    layer: nn.Linear
    weight: Tensor
    a: Tensor
    """(adapters × rank, inputs)"""
    b: Tensor
    """(outputs, adapters × rank)"""


def sites_of(model: PreTrainedModel, rank: int) -> list[Site]:
    """Adapters on every linear layer of the blocks."""
    noise = torch.Generator(model.device).manual_seed(1)
    found = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "layers" in name:
            made = {"generator": noise, "device": model.device, "dtype": model.dtype}
            a = torch.randn(POOL * rank, layer.in_features, **made) / layer.in_features**0.5
            b = 0.02 * torch.randn(layer.out_features, POOL * rank, **made)
            found.append(Site(layer, layer.weight.clone(), a, b))
    return found


def shares(candidates: int, rank: int, like: Tensor) -> Tensor:
    """Each candidate's weight for every column of the factors: (candidates, adapters × rank)."""
    noise = torch.Generator().manual_seed(2)
    return torch.rand(candidates, POOL, generator=noise).repeat_interleave(rank, 1).to(like)


def merge(sites: Sequence[Site], share: Tensor) -> None:
    """Write a candidate into the model."""
    for site in sites:
        torch.addmm(site.weight, site.b * share, site.a, out=site.layer.weight)


@contextmanager
def beside(sites: Sequence[Site], rows: Tensor) -> Iterator[None]:
    """Let every row have its own share of the adapters; the model holds the base."""

    def hook(site: Site) -> Callable[..., Tensor]:
        def add(_: nn.Module, args: tuple[Tensor, ...], found: Tensor) -> Tensor:
            return found + (args[0] @ site.a.T * rows[:, None]) @ site.b.T

        return add

    for site in sites:
        site.layer.weight.copy_(site.weight)
    handles = [site.layer.register_forward_hook(hook(site)) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def clock(model: PreTrainedModel) -> float:
    """Seconds: of the processor, or on a GPU, once it has done what was asked."""
    if model.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def run(model: PreTrainedModel, tokens: Tensor, history: int) -> Tensor:
    """Logits of the last token, behind a cache of `history` tokens where that is not 0."""
    given: dict[str, Any] = {"input_ids": tokens, "logits_to_keep": 1, "use_cache": False}
    if history:
        config = model.config
        size = config.hidden_size // config.num_attention_heads
        cache = DynamicCache()
        for layer in range(config.num_hidden_layers):
            shape = (len(tokens), config.num_key_value_heads, history, size)
            noise = torch.Generator(model.device).manual_seed(layer)
            one = torch.randn(shape[1:], generator=noise, device=model.device, dtype=model.dtype)
            cache.update(one.expand(shape), one.expand(shape), layer)
        given |= {"past_key_values": cache, "use_cache": True}
    logits: Tensor = model(**given).logits
    return logits[:, -1]


def measure(
    model: PreTrainedModel, rank: int, candidates: int, rows: int, length: int, repeats: int
) -> tuple[float, float]:
    """Return seconds per candidate: one at a time, and at once."""
    sites = sites_of(model, rank)
    share = shares(candidates, rank, sites[0].a)
    history = HISTORY if length == 1 else 0
    tokens = torch.randint(model.config.vocab_size, (rows, length), device=model.device)
    times: dict[str, list[float]] = {"single": [], "at once": []}
    for _ in range(repeats + 1):
        start, single = clock(model), []
        for one in share:
            merge(sites, one)
            single.append(run(model, tokens, history))
        times["single"].append((clock(model) - start) / candidates)
        with beside(sites, share.repeat_interleave(rows, 0)):
            start = clock(model)
            found = run(model, tokens.repeat(candidates, 1), history)
            times["at once"].append((clock(model) - start) / candidates)
        difference = (found - torch.cat(single)).float().abs().max() / found.float().abs().max()
        assert difference < (1e-3 if model.dtype == torch.float32 else 0.1), difference
    for site in sites:
        site.layer.weight.copy_(site.weight)
    single_s, at_once_s = (statistics.median(times[way][1:]) for way in times)
    return single_s, at_once_s


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=[*SIZES], default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--rank", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--length", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = empty_model(SIZES[args.shape]).to(args.device)
    model = model.to(torch.float32 if args.device == "cpu" else torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.02) if parameter.dim() > 1 else parameter.fill_(1.0)
    print("| rank | tokens a row | rows a candidate | one at a time, ms | at once, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for rank, length, rows in itertools.product(args.rank, args.length, args.rows):
        single, at_once = measure(model, rank, args.candidates, rows, length, args.repeats)
        cells = (rank, length, rows, f"{1e3 * single:.1f}", f"{1e3 * at_once:.1f}")
        print("| " + " | ".join(map(str, cells)) + f" | {at_once / single:.2f} |", flush=True)


if __name__ == "__main__":
    main()
