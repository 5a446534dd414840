"""Adam against PyTorch's."""

from __future__ import annotations

import numpy as np
import torch

from automerge.refinement.adam import Adam


def test_steps_are_those_of_pytorch() -> None:
    rng = np.random.default_rng(0)
    point = rng.normal(size=4)
    leaf = torch.tensor(point, requires_grad=True)
    theirs = torch.optim.Adam([leaf], lr=0.03)
    state = Adam.start(4)
    for _ in range(7):
        gradient = rng.normal(size=4) * np.array([1e-6, 1.0, 1e3, 0.0])
        leaf.grad = torch.tensor(gradient)
        theirs.step()
        state, move = state.step(gradient, 0.03)
        point = point + move
        np.testing.assert_allclose(point, leaf.detach().numpy(), rtol=1e-12)
