"""A base and three fine-tunes on disk, in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from automerge.checkpoints import Checkpoint, open_checkpoint
from tests.checkpoints.models import gpt2, llama, perturb, save

NAMES = ("base", "maths", "code", "chat")


@pytest.fixture(scope="session", params=["tied", "untied", "gpt2"])
def folders(request, tmp_path_factory) -> Mapping[str, Path]:
    torch.manual_seed(0)
    model = gpt2() if request.param == "gpt2" else llama(tied=request.param == "tied")
    model = model.to(torch.bfloat16)
    root = tmp_path_factory.mktemp(request.param)
    saved = {}
    for seed, name in enumerate(NAMES):
        perturb(model, seed)
        saved[name] = save(model, root / name, shard="8KB" if name == "code" else "5GB")
    return saved


@pytest.fixture(scope="session")
def checkpoints(folders) -> Mapping[str, Checkpoint]:
    return {name: open_checkpoint(folder) for name, folder in folders.items()}
