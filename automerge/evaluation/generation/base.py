"""What generates texts from a live model: the contract of generators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM


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
        """Return one text per request, cut where lm-eval cuts it.

        Raises:
            torch.OutOfMemoryError: a request does not even fit alone; the trial has failed.
        """
        ...


@runtime_checkable
class Choosing(Generator, Protocol):
    """A generator that decides how it generates once it sees the model."""

    @property
    def chosen(self) -> str:
        """How it generated last, and why if not as asked, for people."""
        ...


GeneratorFactory: TypeAlias = Callable[["HFLM", int | None], Generator]
"""Makes a generator over lm-eval's wrapper of a model, of the bytes that keys and values of answers
under way may fill; None is no limit."""
