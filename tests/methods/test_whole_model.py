"""Methods that rank over the whole model give what they give where the model is one vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.merging import ResidentEngine, order
from automerge.methods import METHODS
from automerge.recipe import Profile
from automerge.testing.merges import recipe
from tests.methods.oracles import ORACLES

SHAPES = {"model.layers.0.a.weight": (40, 30), "model.layers.1.b.weight": (25,), "c": (11, 9)}
SCALES = (1.0, 3.0, 0.2)
N = sum(int(np.prod(shape)) for shape in SHAPES.values())


def models(n: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    """A base and sources whose tensors have moved by very different amounts."""
    generator = torch.Generator().manual_seed(5)

    def drawn() -> list[torch.Tensor]:
        return [torch.randn(shape, generator=generator) for shape in SHAPES.values()]

    base, common = drawn(), drawn()
    made = {"base": dict(zip(SHAPES, base, strict=True))}
    for i in range(n):
        moved = [
            b + s * (0.5 * c + x) for b, c, x, s in zip(base, common, drawn(), SCALES, strict=True)
        ]
        made[f"m{i}"] = dict(zip(SHAPES, moved, strict=True))
    return made


def flat(model: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([t.reshape(-1) for t in model.values()]).double().numpy()


def merged(method: str, whole: bool) -> dict[str, torch.Tensor]:
    made = recipe(METHODS[method])
    made = replace(made, knobs={**made.knobs, "whole_model": whole})
    named = {name: MemoryCheckpoint(model) for name, model in models().items()}
    return dict(ResidentEngine(named).merge(made))


def expected(method: str) -> np.ndarray:
    made = recipe(METHODS[method])
    each = [{k: p.parts[0][1][0] for k, p in s.knobs.items()} for s in made.sources]
    knobs = {k: v.parts[0][1][0] if isinstance(v, Profile) else v for k, v in made.knobs.items()}
    base, *sources = map(flat, models().values())
    return ORACLES[method](base, sources, each, knobs, None)


@pytest.mark.parametrize("method", ["ties", "pcb"])
def test_elements_are_ranked_as_in_one_vector(method: str) -> None:
    found = merged(method, whole=True)
    np.testing.assert_allclose(flat(found), expected(method), rtol=2e-5, atol=2e-5)
    apart = flat(merged(method, whole=False))
    assert np.abs(apart - expected(method)).max() > 0.1


@pytest.mark.parametrize("method", ["ties", "pcb"])
def test_of_large_models_from_histograms(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = flat(merged(method, whole=True))
    monkeypatch.setattr(order, "EXACT", 1)
    found = flat(merged(method, whole=True))
    base = flat(models()["base"])
    # Thresholds are within 0.4 %: a few elements fall on their other side.
    assert (np.abs(found - exact) > 0.02 * np.abs(exact - base).max()).mean() < 0.01


def test_the_knob_is_off_for_ties_as_in_mergekit_and_on_for_pcb_as_in_its_paper() -> None:
    defaults = {
        name: knob.default
        for name, method in METHODS.items()
        for knob in method.recipe_knobs
        if knob.name == "whole_model"
    }
    assert defaults == {"ties": False, "pcb": True}
