"""How many tokens fit into memory at once, forwards and backwards."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automerge.evaluation.loglikelihood.forward import MAX_LOGITS, Path
from automerge.evaluation.loglikelihood.graph import LOGITS, Graph
from automerge.evaluation.loglikelihood.packing import Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Room:
    """Tokens that are run at once, padding included; `lean` says that layers are run again for
    their gradients (activation checkpointing), for less would fit otherwise."""

    tokens: int
    lean: bool = False


def find_room(model: PreTrainedModel, length: int, tokens: int, limit: int) -> Room | None:
    """Find out how many sequences fit, at least one; None if none does.

    Args:
        model: with parameters that want gradients.
        length: of sequences, in tokens.
        tokens: of a batch; more are never run at once.
        limit: bytes for what a pass forwards keeps.
    """
    path = Path()
    request = Request((0,) * length, (0,) * length)
    [group, *_] = path.layout.groups([request], [range(1)])
    graph = Graph(model, path, limit)
    vocabulary: int = model.config.get_text_config().vocab_size
    most = max(1, min(MAX_LOGITS // LOGITS // vocabulary, tokens) // length)
    for lean in (False, True):

        def too_many(count: int, lean: bool = lean) -> bool:
            return not graph.fits([*group.rows] * count, lean)

        count = bisect_left(range(1, most + 1), True, key=too_many)
        if count:
            return Room(count * length, lean)
    return None
