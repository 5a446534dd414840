"""A tiny base, a fine-tune of it, a source of noise, and text that the fine-tune would write."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.evaluation.toys import make_model
from tests.zoo import save

LENGTH = 24
FIRST = 12
"""Tokens from here on are words; the tokenizer reads back what it wrote."""


def changed(seed: int, size: float, architecture: str = "llama"):
    model = make_model(architecture, 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def written(model, n: int, seed: int) -> list[list[int]]:
    """Sequences that a model would write, of words only."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST, 72, (n, 1), generator=generator)
    with torch.no_grad():
        for _ in range(LENGTH - 1):
            logits = model(input_ids=tokens).logits[:, -1]
            logits[:, :FIRST] = -torch.inf
            following = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, following], dim=1)
    return tokens.tolist()


def write(folder: Path, n: int = 200) -> Path:
    """Write models `base`, `own` and `noise`, and `text`, a folder of what `own` would write."""
    own = changed(1, 0.15)
    for name, model in (("base", make_model("llama", 0)), ("own", own), ("noise", changed(2, 0.3))):
        save(model, folder / name)
    (folder / "text").mkdir()
    for i, row in enumerate(written(own, n, 3)):
        text = " ".join(f"w{token - FIRST}" for token in row)
        (folder / "text" / f"{i:04}.txt").write_text(text)
    return folder


RECIPE = """\
recipe: 1
models: {base: ./base, own: ./own, noise: ./noise}
method: task_arithmetic
base: base
sources:
  own: {weight: 0.5}
  noise: {weight: 0.5}
"""
