"""Whether merges on a GPU are identical to the host's."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from automerge.bench.merge import varied
from automerge.bench.shapes import Size, empty_model, random_models
from automerge.merging import ResidentEngine
from automerge.methods import METHODS

SIZE = Size(32, 96, 1, 4, 2, 500, tied=True)
ROOM = 10**9


def agreement(device: str) -> Iterator[tuple[str, bool]]:
    """Yield for every method whether a merge on a device has the bits of the host's."""
    here = empty_model(SIZE)
    models = random_models(here, 3)
    there = copy.deepcopy(here).to(torch.device(device))
    plain, engine = ResidentEngine(models), ResidentEngine(models, device_budget=ROOM)
    for name, method in METHODS.items():
        if method.needs:
            continue  # merged on the host, like every method of whole tensors
        recipe = varied(method, min(3, method.max_sources or 3), 1)
        plain.merge_into(here, recipe)
        engine.merge_into(there, recipe)
        found = there.state_dict()
        yield name, all(torch.equal(t, found[n].cpu()) for n, t in here.state_dict().items())
