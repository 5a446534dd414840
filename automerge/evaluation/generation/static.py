"""Generation by lm-eval's own `HFLM`: padded batches, the reference for other ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM


class StaticGenerator:
    """Runs every request from its first token, in batches of similar length; keeps nothing."""

    def __init__(self, lm: HFLM, cache_bytes: int | None = None) -> None:
        del cache_bytes  # a batch is as large as the configuration says
        self._lm = lm

    def weights_changed(self) -> None:
        """Do nothing: calls do not share anything."""

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return lm-eval's own texts."""
        texts: list[str] = self._lm.generate_until(list(requests), disable_tqdm=True)
        return texts

    def completed(self, requests: Sequence[Instance], texts: Sequence[str | None]) -> list[str]:
        """Return another way's texts, with lm-eval's own where there is none."""
        others = [r for r, text in zip(requests, texts, strict=True) if text is None]
        rest = iter(self.generate(others) if others else ())
        return [next(rest) if text is None else text for text in texts]
