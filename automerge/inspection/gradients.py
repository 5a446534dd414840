"""Whether tasks' gradients at the base agree, and whom each source's task vector helps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, places
from automerge.errors import Fault, PreflightError
from automerge.evidence.gradients import gather_gradient
from automerge.evidence.parts import ITEM_BYTES, packed
from automerge.inspection.model import Fall, GradientPair, Gradients
from automerge.inspection.reading import open_reading
from automerge.inspection.weights import BLOCK, blocks
from automerge.recipe import BASE, single
from automerge.session.gathering import room_for_sums


def gradients(
    references: Mapping[str, str],
    texts: Mapping[str | None, Path],
    device: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Gradients:
    """Compare the base's mean gradients on the sources' texts with each other and task vectors.

    With g_i the mean gradient of −log p(next token) on source i's text, and τ_j = source j − base,
    a pair is compared by the cosine of g_i and g_j (Yu et al. 2020, arXiv:2001.06782), and −⟨g_i,
    τ_j⟩ is by how much i's loss falls from the base to source j, to first order. All g of as many
    tensors as fit into memory are gathered in one pass over each text; then sums are taken of them.

    Args:
        references: paths or hub ids by name, the base first.
        texts: a file, or a folder of text files, per source; None for all that are not named.
        device: "auto", "cpu" or "cuda".
        progress: called with the number of sequences read and in total.

    Raises:
        ConfigError: texts do not belong to sources.
        PreflightError: a model or a text cannot be read, or a tensor's gradients do not fit into
            memory.
    """
    reading = open_reading("--gradients", references, texts, device)
    short = [name for name, own in reading.pieces.items() if all(len(p) < 2 for p in own)]
    if short:
        raise PreflightError(
            Fault(f"--gradients: the text of {name} has one token: name a longer one")
            for name in short
        )
    model, sources = reading.model, tuple(reading.pieces)
    reading.engine.merge_into(model, single(BASE))
    tensors = reading.engine.tensors(model)
    sizes = {
        name: ITEM_BYTES * tensor.numel() * len(sources)
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }
    groups = packed("the gradient", sizes, room_for_sums(model))
    total = len(groups) * sum(map(len, reading.pieces.values()))
    steps = itertools.count(1)
    products = Products(sources)
    for group in groups:
        wanted = {name: tensors[name] for name in group}
        found = [
            gather_gradient(model, wanted, own, lambda *_: progress(next(steps), total))
            for own in reading.pieces.values()
        ]
        for name, place in places(group).items():
            products.add(name, place.layer, [own.get(name) for own in found], reading.checkpoints)
    return products.summary()


@dataclass
class Products:
    """Inner products of gradients with each other, by layer, and with task vectors, as they come.

    `grams` holds ⟨g_i, g_j⟩ of each layer, None for what is in no layer, and `along` ⟨g_i, τ_j⟩.
    """

    sources: Sequence[str]
    grams: dict[int | None, Tensor] = field(default_factory=dict)
    along: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.along = self._zeros()

    def add(
        self,
        name: str,
        layer: int | None,
        found: Sequence[Tensor | None],
        checkpoints: Mapping[str, Checkpoint],
    ) -> None:
        """Add one tensor's products, in float64, a block of elements at a time.

        Args:
            name: the tensor.
            layer: it is in.
            found: its gradient on each source's text, in float32; None for zeros.
            checkpoints: base and sources; elements that are not finite count as the base's.
        """
        flat = {
            model: checkpoint.read(name).reshape(-1) for model, checkpoint in checkpoints.items()
        }
        zeros = torch.zeros(()).expand(flat[BASE].numel())
        rows = [zeros if gradient is None else gradient.reshape(-1) for gradient in found]
        gram = self.grams.setdefault(layer, self._zeros())
        for number, (_, deltas) in enumerate(blocks(flat, BASE, self.sources)):
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            block = torch.stack([row[part] for row in rows]).double()
            gram += block @ block.T
            self.along += block @ deltas.double().T

    def summary(self) -> Gradients:
        """Return cosines of all pairs, and what is promised to each text by each task vector."""
        last = max((layer for layer in self.grams if layer is not None), default=-1)
        whole = sum(self.grams.values(), self._zeros())
        layers = [self.grams.get(layer, self._zeros()) for layer in range(last + 1)]
        numbered = list(enumerate(self.sources))
        return Gradients(
            tuple(
                GradientPair(
                    one, other, cosine(whole, i, j), tuple(cosine(own, i, j) for own in layers)
                )
                for (i, one), (j, other) in itertools.combinations(numbered, 2)
            ),
            tuple(
                Fall(text, source, -self.along[i, j].item())
                for i, text in numbered
                for j, source in numbered
            ),
        )

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.sources), len(self.sources), dtype=torch.float64)


def cosine(gram: Tensor, i: int, j: int) -> float | None:
    """Return the cosine of two vectors, given all inner products; None if it is not defined."""
    inner, one, other = (gram[at].item() for at in ((i, j), (i, i), (j, j)))
    size = math.sqrt(one) * math.sqrt(other)
    known = size > 0 and math.isfinite(inner / size)
    return max(-1.0, min(1.0, inner / size)) if known else None
