"""Generation by lm-eval's own `HFLM`: padded batches, the reference for other ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.evaluation.generation.plan import run_halving

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM


class StaticGenerator:
    """Runs every request from its first token, in batches of similar length; keeps nothing.

    Where memory runs out, batches are halved, from then on. What an encoder reads is run alone:
    lm-eval's answers to it depend on what it is run with.

    Attributes:
        rows: how many requests are run together.
    """

    def __init__(self, lm: HFLM, cache_bytes: int | None = None) -> None:
        del cache_bytes  # a batch is as large as the configuration says, or as memory allows
        self._lm = lm
        self.rows = int(lm.batch_size) if lm.backend == "causal" else 1

    def weights_changed(self) -> None:
        """Do nothing: calls do not share anything."""

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return lm-eval's own texts.

        Where memory runs out, all requests are run again. That is soon, if at all: lm-eval begins
        with the longest prompts.
        """
        rows = min(self.rows, max(len(requests), 1))
        texts, fitted = run_halving(rows, lambda rows: self._run(requests, rows))
        if fitted < rows:
            self.rows = fitted
        return texts

    def completed(self, requests: Sequence[Instance], texts: Sequence[str | None]) -> list[str]:
        """Return another way's texts, with lm-eval's own where there is none."""
        others = [r for r, text in zip(requests, texts, strict=True) if text is None]
        rest = iter(self.generate(others) if others else ())
        return [next(rest) if text is None else text for text in texts]

    def _run(self, requests: Sequence[Instance], rows: int) -> list[str]:
        """Let lm-eval generate in batches of a size; its wrapper keeps the one it had."""
        usual, self._lm.batch_size_per_gpu = self._lm.batch_size_per_gpu, rows
        try:
            texts: list[str] = self._lm.generate_until(list(requests), disable_tqdm=True)
        finally:
            self._lm.batch_size_per_gpu = usual
        return texts
