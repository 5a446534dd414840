"""What a pass forwards keeps in memory for the pass backwards, and how it keeps less.

How much that is depends on the model's code and on the kernels its device has, so it is measured
on rows of two lengths. Layers that are run again when their gradients are computed (activation
checkpointing: Chen et al. 2016, arXiv:1604.06174) keep their inputs only.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from automerge.evaluation.loglikelihood.forward import (
    Path,
    longest_input,
    max_position,
    run_rows,
)
from automerge.evaluation.loglikelihood.packing import UNLIMITED, Request, Row

LENGTHS = 16, 64
"""Tokens of the rows that are measured."""

LOGITS = 5
"""Copies of a batch's logits, in single precision, that a loss and its gradient take."""


@dataclass(frozen=True)
class Kept:
    """Bytes that a batch keeps: per token, and per pair of places in a row."""

    per_token: float
    per_pair: float

    def __call__(self, rows: Sequence[Row]) -> float:
        """Return the bytes of a batch's activations; rows are padded to the longest."""
        width = max(len(row.tokens) for row in rows)
        return len(rows) * width * (self.per_token + width * self.per_pair)


class Graph:
    """How much of what is run forwards can be kept.

    Args:
        model: Parameters that want gradients do so.
        path: How it is run.
        limit: Bytes.
    """

    def __init__(self, model: PreTrainedModel, path: Path, limit: int) -> None:
        self._model, self._path, self._limit = model, path, limit
        self._n_logits: int = model.config.get_text_config().vocab_size
        self._known: dict[tuple[bool, int, int, int], Kept] = {}

    def fits(self, rows: Sequence[Row], lean: bool, logits: int = LOGITS) -> bool:
        """Return whether a batch fits; `lean` says that layers keep their inputs only, `logits` how
        many copies of the logits there are."""
        kept = self._kept(lean)
        places = sum(len({c for pick in row.picks for c in pick.columns}) for row in rows)
        return kept(rows) + 4 * logits * self._n_logits * places <= self._limit

    def _kept(self, lean: bool) -> Kept:
        """Return what is measured once for a model's layers, the experts that a token passes and
        the parameters that have gradients.

        These change with recipes, a model's code does not.
        """
        wanting = sum(parameter.requires_grad for parameter in self._model.parameters())
        config = self._model.config.get_text_config()
        passed = int(getattr(config, "num_experts_per_tok", None) or 0)
        key = lean, config.num_hidden_layers, passed, wanting
        if key not in self._known:
            self._known[key] = self._lean() if lean else measured(self._model, self._path)
        return self._known[key]

    def _lean(self) -> Kept:
        """Beside the inputs of all layers, a mask, and one layer's parts while it runs."""
        whole = self._kept(lean=False)
        layers = leanable_layers(self._model)
        if not layers:
            return whole
        with lean_layers(self._model):
            inputs = measured(self._model, self._path)
        return Kept(
            inputs.per_token + whole.per_token / len(layers),
            inputs.per_pair + whole.per_pair / len(layers) + self._model.dtype.itemsize,
        )


def measured(model: PreTrainedModel, path: Path) -> Kept:
    """Measure what rows keep whose tokens are all run, with one place that is read."""
    config = model.config.get_text_config()
    longest = min(max_position(model), longest_input(model) or UNLIMITED)
    sizes = []
    for length in (min(n, longest) for n in LENGTHS):
        tails = [tuple((start + i) % config.vocab_size for i in range(length)) for start in (0, 1)]
        requests = [Request(tails[0][: length // 2] + t[length // 2 :], t[-1:]) for t in tails]
        [group, *_] = path.layout.groups(requests, [range(len(requests))])
        width = max(len(row.tokens) for row in group.rows)
        sizes.append((len(group.rows) * width, width, _saved(model, path, requests, group.rows)))
    (few, narrow, small), (many, wide, large) = sizes
    bend = (large / many - small / few) / (wide - narrow) if wide > narrow else 0.0
    per_pair = max(bend, 0.0)
    return Kept(max(small / few - narrow * per_pair, large / many - wide * per_pair), per_pair)


def _saved(
    model: PreTrainedModel, path: Path, requests: Sequence[Request], rows: Sequence[Row]
) -> int:
    """Count the bytes of all storages that a pass keeps, beside the model's own."""
    with torch.enable_grad(), keeping(model) as kept:
        run_rows(model, path, requests, rows)
    return sum(kept.values())


@contextlib.contextmanager
def keeping(model: PreTrainedModel) -> Iterator[dict[int, int]]:
    """Yield a dictionary that fills with the bytes of what is kept, beside the model's own, by
    address."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        yield kept


@contextlib.contextmanager
def lean_layers(model: PreTrainedModel) -> Iterator[None]:
    """Let layers keep their inputs only; what they compute stays the same, and so does all else.

    transformers runs a layer so while it is in training mode. The mode is set on the layer alone,
    none of its parts, and only where the layer's own code does not ask for it.
    """
    layers = leanable_layers(model)
    names = ("training", "gradient_checkpointing", "_gradient_checkpointing_func")
    before = [{name: layer.__dict__.get(name) for name in names} for layer in layers]
    run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    try:
        for layer in layers:
            layer.__dict__.update(dict(zip(names, (True, True, run), strict=True)))
        yield
    finally:
        for layer, known in zip(layers, before, strict=True):
            for name, value in known.items():
                if value is None:
                    layer.__dict__.pop(name, None)
                else:
                    layer.__dict__[name] = value


def leanable_layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """List the layers that compute the same in training mode, as far as that is their own."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    inner = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    return [layer for layer in layers if id(layer) not in inner and not _asks_mode(type(layer))]


def _asks_mode(kind: type) -> bool:
    """Return whether a layer's own code reads its training mode, for dropout or the like."""
    classes = kind.__mro__[: kind.__mro__.index(GradientCheckpointingLayer)]
    methods = (
        inspect.unwrap(f) for c in classes for f in vars(c).values() if inspect.isfunction(f)
    )
    return any("training" in method.__code__.co_names for method in methods)
