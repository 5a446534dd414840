"""References to low-rank noise: a source without a file, made from a seed."""

from __future__ import annotations

import re
from dataclasses import dataclass

KIND = "noise"
DEFAULT_SCALE = 0.01
"""About the size of a fine-tune's task vector, relative to the base's weights."""
MAX_RANK = 1024
MAX_SEED = 2**32

_FORMS = {
    "rank": re.compile(r"[0-9]{1,9}", re.ASCII),
    "seed": re.compile(r"[0-9]{1,18}", re.ASCII),
    "scale": re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?(e[-+]?[0-9]{1,3})?", re.ASCII),
}


@dataclass(frozen=True)
class Noise:
    """A task vector with a random matrix of low rank for each matrix of the base's layers.

    Attributes:
        rank: of each matrix.
        seed: decides the numbers.
        scale: the expected norm of each matrix (Frobenius), relative to the base's.
    """

    rank: int
    seed: int = 0
    scale: float = DEFAULT_SCALE

    @property
    def text(self) -> str:
        """The reference, which `parse` inverts."""
        return f"{KIND}:rank={self.rank},seed={self.seed},scale={self.scale:.6g}"

    @classmethod
    def parse(cls, text: str) -> Noise:
        """Read a reference such as `noise:rank=8,seed=3,scale=0.01`; only the rank must be given.

        Raises:
            ValueError: it is none; the message is for the user.
        """
        given: dict[str, str] = {}
        for part in text.removeprefix(f"{KIND}:").split(","):
            key, _, value = part.strip().partition("=")
            if key not in _FORMS or key in given or not _FORMS[key].fullmatch(value):
                raise ValueError(
                    f"{text!r}: expected {KIND}:rank=8,seed=3,scale=0.01, got {part.strip()!r}"
                )
            given[key] = value
        rank, seed = int(given.get("rank", 0)), int(given.get("seed", 0))
        scale = float(f"{float(given.get('scale', DEFAULT_SCALE)):.6g}")
        if not 1 <= rank <= MAX_RANK or seed >= MAX_SEED or not 0 < scale <= 1:
            raise ValueError(
                f"{text!r}: expected a rank from 1 to {MAX_RANK}, a seed below {MAX_SEED} and a "
                "scale above 0 and up to 1"
            )
        return cls(rank, seed, scale)


def is_noise(reference: str) -> bool:
    """Return whether a reference is of this kind, well-formed or not."""
    return reference.startswith(f"{KIND}:")
