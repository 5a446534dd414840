"""What generates texts from a live model: the contract of generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class Generator(Protocol):
    """Answers lm-eval's `generate_until` requests with a live model's greedy texts.

    The law: `weights_changed` is called after every change of the model's weights and before the
    next `generate`, whose texts are then those of the new weights alone. Whatever an engine keeps
    from the old weights, such as keys and values of a prefix that requests share, it drops there.
    Texts are those of lm-eval's own `HFLM`, in the order of the requests.
    """

    def weights_changed(self) -> None:
        """Drop whatever was computed with the previous weights."""
        ...

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return one text per request, cut where lm-eval cuts it."""
        ...
