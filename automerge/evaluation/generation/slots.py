"""Keys and values of answers under way, a row each, and the attention that reads them in place.

A beginning that rows share is kept once, and the queries of all rows meet it in one product
(Hydragen, Juravsky et al. 2024, arXiv:2402.05099). Softmax runs over both parts together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel

ATTENTION = "automerge_slots"
"""The name of this attention among transformers' own."""

NOWHERE = 2**40
"""A position that no token has reached."""

Layer: TypeAlias = tuple[Tensor, Tensor]
"""A layer's keys and values: [rows, heads, tokens, width], those of a prefix without rows."""


class Unsupported(NotImplementedError):
    """The model does not attend through transformers' attention interface as its configuration
    says."""


@dataclass(frozen=True)
class _Call:
    """Which rows a call of the model runs, and where its tokens are.

    `columns` are those of the tokens' keys: the first of a block, or one per row, [rows]. Of each
    row, the first `length` keys are read. `starts` [rows] are the positions of the rows' first
    tokens, `positions` [rows, tokens] those of the tokens that are run.
    """

    rows: slice
    columns: int | Tensor
    length: int
    starts: Tensor
    positions: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def hidden(self, before: int, window: int | None) -> Tensor:
        """Return which keys tokens do not see: [rows, 1, tokens, prefix and own keys]."""
        if window not in self.masks:
            own = self.starts.unsqueeze(1) + torch.arange(self.length, device=self.starts.device)
            shared = torch.arange(before, device=own.device).expand(len(own), -1)
            # Rows that do not begin with the prefix begin at position 0, and see none of it.
            shared = torch.where(self.starts.unsqueeze(1) > 0, shared, NOWHERE)
            keys = torch.cat([shared, own], dim=1)[:, None, None, :]
            asking = self.positions[:, None, :, None]
            hidden = keys > asking
            self.masks[window] = hidden if window is None else hidden | (keys <= asking - window)
        return self.masks[window]


class Slots(Cache):  # type: ignore[misc]
    """Room for the keys and values of some rows, behind a prefix that some of them share.

    Args:
        rows: how many answers may be under way.
        length: how many tokens a row holds, without the prefix.
        prefix: keys and values of each layer; empty without a prefix.
    """

    def __init__(self, rows: int, length: int, prefix: Sequence[Layer] = ()) -> None:
        super().__init__(layers=[])
        self._n_rows, self._length = rows, length
        self._prefix = prefix
        self._own: dict[int, Layer] = {}
        self._starts = [0] * rows
        self._call: _Call | None = None
        self._kept: tuple[int, Tensor] | None = None
        self.before = prefix[0][0].shape[-2] if prefix else 0

    def share(self, row: int, shares: bool) -> None:
        """Say whether the prompt of a row begins with the prefix."""
        self._starts[row] = self.before if shares else 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a row over another's."""
        for layer in self._own.values():
            for kept in layer:
                kept[target, :, :length] = kept[source, :, :length]
        self._starts[target] = self._starts[source]

    def layers_of(self, row: int) -> list[Layer]:
        """Return a row's keys and values, layer by layer, as a prefix has them."""
        return [(keys[row], values[row]) for _, (keys, values) in sorted(self._own.items())]

    @property
    def nbytes(self) -> int:
        """The size of all rows' keys and values."""
        return sum(kept.nbytes for layer in self._own.values() for kept in layer)

    def run(
        self,
        model: PreTrainedModel,
        tokens: Tensor,
        rows: slice,
        columns: int | Tensor,
        length: int,
    ) -> Tensor:
        """Run tokens of some rows, and keep their keys and values.

        Args:
            model: within `attending`.
            tokens: ids, [rows, tokens].
            rows: the rows they are in.
            columns: the first token's in all rows, or in each row the only token's, [rows].
            length: how many keys of these rows are read, one past the last column.

        Returns:
            The logits after the last tokens, [rows, vocabulary].

        Raises:
            Unsupported: the model attends in another way.
        """
        starts = torch.tensor(self._starts[rows], device=tokens.device)
        if isinstance(columns, int):
            own = torch.arange(columns, columns + tokens.shape[1], device=tokens.device)
        else:
            own = columns.unsqueeze(1)
        self._call = _Call(rows, columns, length, starts, starts.unsqueeze(1) + own)
        current = _CURRENT.set(self)
        try:
            logits: Tensor = model(
                input_ids=tokens,
                position_ids=self._call.positions,
                past_key_values=self,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        finally:
            _CURRENT.reset(current)
            self._call, unread, self._kept = None, self._kept, None
        if unread is not None or not self._own:
            raise Unsupported("a layer does not attend through transformers' attention interface")
        return logits[:, -1]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Layer:
        """Keep keys and values [rows, heads, tokens, width] of a layer, and return them."""
        call = self._call
        if call is None or self._kept is not None:
            raise Unsupported("a layer does not attend through transformers' attention interface")
        new = key_states, value_states
        if layer_idx not in self._own:
            self._own[layer_idx] = (self._room(key_states), self._room(value_states))
        for kept, tokens in zip(self._own[layer_idx], new, strict=True):
            if isinstance(call.columns, int):
                stop = call.columns + tokens.shape[2]
                kept[call.rows, :, call.columns : stop] = tokens
            else:
                each = torch.arange(len(tokens), device=tokens.device)
                kept[call.rows][each, :, call.columns.to(each.device)] = tokens[:, :, 0]
        self._kept = layer_idx, key_states
        return new

    def _room(self, new: Tensor) -> Tensor:
        # Zeros, since what is masked must be finite: 0 times NaN is NaN.
        return new.new_zeros(self._n_rows, new.shape[1], self._length, new.shape[3])

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        scaling: float | None,
        softcap: float | None,
        window: int | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attend with queries [rows, heads, tokens, width] to all that their tokens see.

        Args:
            query: the tokens' queries.
            key: what the layer returned from `update`.
            scaling: the factor of scores; None is width^-1/2.
            softcap: scores are bent to stay below this.
            window: how many tokens one sees, itself included; None is all.
            sinks: a score per head [heads] that takes its share of the softmax, and has no value.

        Returns:
            The values' mean by softmax, [rows, tokens, heads, width of values].
        """
        call, kept = self._call, self._kept
        if call is None or kept is None or kept[1] is not key:
            raise Unsupported("a layer attends to other keys than it has just kept")
        layer, self._kept = kept[0], None
        keys, values = (kept[call.rows, :, : call.length] for kept in self._own[layer])
        rows, heads, width, size = query.shape
        groups, before = keys.shape[1], self.before
        # The heads of a group read the same keys.
        asked = query.reshape(rows, groups, heads // groups * width, size)
        scores = asked @ keys.transpose(2, 3)
        if before:
            flat = asked.transpose(0, 1).reshape(groups, -1, size)
            shared = flat @ self._prefix[layer][0].transpose(1, 2)
            shared = shared.view(groups, rows, -1, before).transpose(0, 1)
            scores = torch.cat([shared, scores], dim=-1)
        scores = scores * (1 / math.sqrt(size) if scaling is None else scaling)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.view(rows, heads, width, -1)
        scores = scores.masked_fill(call.hidden(before, window).to(scores.device), -math.inf)
        if sinks is not None:
            own = sinks.to(scores.dtype).view(1, heads, 1, 1).expand(rows, heads, width, 1)
            scores = torch.cat([scores, own], dim=-1)
        shares = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        shares = shares[..., : before + call.length]
        shares = shares.reshape(rows, groups, -1, before + call.length)
        found = shares[..., before:] @ values
        if before:
            flat = shares[..., :before].transpose(0, 1).reshape(groups, -1, before)
            shared = flat @ self._prefix[layer][1]
            found += shared.view(groups, rows, -1, shared.shape[-1]).transpose(0, 1)
        return found.reshape(rows, heads, width, -1).transpose(1, 2).contiguous()


_CURRENT: ContextVar[Slots | None] = ContextVar("slots", default=None)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do, to the `Slots` that are run."""
    slots = _CURRENT.get()
    if slots is None:
        raise Unsupported("no answers are under way")
    return slots.attend(query, key, scaling, softcap, sliding_window, s_aux), None


AttentionInterface.register(ATTENTION, _attend)


@contextmanager
def attending(model: PreTrainedModel) -> Iterator[None]:
    """Make a model attend through `Slots`; restore its own attention afterwards."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name
