"""How many requests are run together: as many as was asked for, or as there is memory for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from transformers import PretrainedConfig, PreTrainedModel

from automerge.evaluation.fitting import Found, run_with_less
from automerge.evaluation.loglikelihood.forward import MIN_TOKENS

logger = logging.getLogger(__name__)

BatchSize: TypeAlias = int | Literal["auto"]
"""A number of requests, or "auto": as many as there is memory for."""

MOST_TOKENS = 2**15
"""The most tokens in a planned batch on a GPU: matrix products of that many rows are bound by
arithmetic, so more rows would be no faster."""

CPU_TOKENS = 2**12
"""The same on a CPU, which is bound by arithmetic much sooner."""


class Batches(Protocol):
    """Decides how many requests are run together.

    `said` tells people what was planned; it is empty where that is what they asked for.
    """

    @property
    def said(self) -> str: ...

    def requests(self, longest: int) -> int:
        """Return how many requests may be run together if the longest has `longest` tokens."""

    def halve(self, longest: int) -> bool:
        """Plan smaller batches for good; return False if the size is fixed, or cannot shrink."""


class Fixed:
    """As many requests as was asked for."""

    said = ""

    def __init__(self, size: int) -> None:
        self._size = size

    def requests(self, longest: int) -> int:
        """Return the number that was asked for."""
        del longest
        return self._size

    def halve(self, longest: int) -> bool:
        """Return False: who asked for a number gets it."""
        del longest
        return False


class Planned:
    """A power of two of tokens whose activations fit into memory; halved where they did not.

    Args:
        model: whose batches are planned.
        room: bytes that a forward pass may take beside the model; None is no limit.
    """

    def __init__(self, model: PreTrainedModel, room: int | None) -> None:
        most = CPU_TOKENS if model.device.type == "cpu" else MOST_TOKENS
        if room is not None:
            config = model.config.get_text_config()
            fitting = room // activation_bytes(config, model.dtype.itemsize)
            most = min(most, 1 << max(fitting, 1).bit_length() - 1)
        self._tokens = max(MIN_TOKENS, most)
        self._halved = False

    @property
    def said(self) -> str:
        after = ", halved where memory ran out" if self._halved else ""
        return f"up to {self._tokens} tokens at once{after}"

    def requests(self, longest: int) -> int:
        """Return how many requests of that length have room, at least 1."""
        return max(1, self._tokens // longest)

    def halve(self, longest: int) -> bool:
        """Halve the tokens, unless a batch holds a single request or the fewest tokens already."""
        if self._tokens <= max(MIN_TOKENS, longest):
            return False
        self._tokens //= 2
        self._halved = True
        logger.warning("out of memory: batches are halved, to %d tokens", self._tokens)
        return True


def batches_of(size: BatchSize, model: PreTrainedModel, room: int | None) -> Batches:
    """Return what decides on batches of a size that a configuration states."""
    return Planned(model, room) if size == "auto" else Fixed(size)


def activation_bytes(config: PretrainedConfig, itemsize: int) -> int:
    """Estimate what a token of a forward pass takes, in bytes, beside keys and values kept.

    A layer's widest moment is in its feed-forward block: gate, up, activation and product beside
    the hidden states, which norms also hold in single precision. A token runs several experts.

    Args:
        config: of the language model.
        itemsize: bytes of a number.
    """
    hidden: int = config.hidden_size
    inner: int = getattr(config, "intermediate_size", None) or 4 * hidden
    inner *= getattr(config, "num_experts_per_tok", None) or 1
    return itemsize * (4 * hidden + 4 * inner) + 4 * 2 * hidden


def run_fitting(batches: Batches, longest: int, run: Callable[[int], Found]) -> Found:
    """Run something with as many requests at once as planned, and again with fewer where memory
    runs out.

    Args:
        batches: the plan, which learns.
        longest: tokens of the longest request.
        run: called with the number of requests; has no effect but its result.
    """
    return run_with_less(lambda: run(batches.requests(longest)), lambda: batches.halve(longest))
