"""Low-rank noise: what its reference says, and what it adds to each tensor of a base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from automerge.checkpoints import noise_folder, open_checkpoint, open_together, places
from automerge.checkpoints.noise import noise_factors
from automerge.errors import PreflightError
from automerge.files.noise import Noise
from automerge.files.references import resolve
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.checkpoints.models import gpt2, llama, save

NOISE = Noise(rank=3, seed=5, scale=0.02)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def changes(base: Path, noise: Noise) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(base)
    source = open_checkpoint(noise_folder(noise, checkpoint).path, checkpoint)
    return {name: source.read(name) - checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.parametrize("build", [llama, gpt2])
def test_each_matrix_of_the_layers_gets_a_change_of_the_rank_and_size_asked_for(
    build, tmp_path: Path
) -> None:
    base = save(build(), tmp_path / "base")
    stored = open_checkpoint(base)
    found = changes(base, NOISE)
    for name, place in places(stored.tensors).items():
        change, weight = found[name].double(), stored.read(name).double()
        if place.layer is None or place.component == "norm" or weight.ndim != 2:
            assert not change.any()
            continue
        values = torch.linalg.svdvals(change)
        rounding = 1e-6 * float(weight.norm())
        assert float(values[2]) > 10 * rounding > float(values[3]), name
        # ‖BA‖² has mean r·m·n; its relative deviation is below √(3/r)·(1/√m + 1/√n) ≲ 1 here.
        assert 0.2 < float(change.norm() / weight.norm()) / NOISE.scale < 2.5, name


def test_the_norm_is_the_scale_on_average(tmp_path: Path) -> None:
    base = save(llama(), tmp_path / "base")
    weights = open_checkpoint(base)
    squares = [
        float((change.norm() / (0.02 * weights.read(name).norm())).square())
        for seed in range(40)
        for name, change in changes(base, Noise(3, seed, 0.02)).items()
        if change.any()
    ]
    n = torch.tensor(squares).double()
    assert abs(float(n.mean()) - 1) < 4 * float(n.std()) / len(n) ** 0.5


def test_seed_and_rank_and_scale_each_matter_and_nothing_else_does(tmp_path: Path) -> None:
    base = save(llama(), tmp_path / "base")
    checkpoint = open_checkpoint(base)
    same = {noise_folder(NOISE, checkpoint).path, noise_folder(NOISE, checkpoint).path}
    others = (Noise(4, 5, 0.02), Noise(3, 6, 0.02), Noise(3, 5, 0.03))
    different = {noise_folder(noise, checkpoint).path for noise in others}
    assert len(same) == 1
    assert len(same | different) == 4
    one, other = changes(base, NOISE), changes(base, others[1])
    name = next(name for name, change in one.items() if change.any())
    cosine = torch.cosine_similarity(one[name].flatten(), other[name].flatten(), dim=0)
    assert abs(float(cosine)) < 0.7


def test_no_two_factors_have_numbers_in_common(tmp_path: Path) -> None:
    factors = noise_factors(NOISE, open_checkpoint(save(llama(), tmp_path / "base")))
    flat = [factor.double().flatten() for factor in factors.values()]
    assert len(flat) > 10
    for i, one in enumerate(flat):
        for other in flat[:i]:
            n = min(len(one), len(other))
            correlation = torch.corrcoef(torch.stack([one[:n], other[:n]]))[0, 1]
            # Of a thousand pairs of independent ones, the largest is some 3.5 / √n.
            assert abs(float(correlation)) < 6 / n**0.5


def test_a_damaged_file_in_the_cache_is_written_again(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(llama(), tmp_path / "base"))
    folder = noise_folder(NOISE, checkpoint).path
    weights = folder / "adapter_model.safetensors"
    content, kept = weights.read_bytes(), weights.stat().st_mtime_ns
    noise_folder(NOISE, checkpoint)
    assert weights.stat().st_mtime_ns == kept, "workers may be reading it"
    weights.write_bytes(content[:-4])
    noise_folder(NOISE, checkpoint)
    assert weights.read_bytes() == content


def test_live_and_exported_merges_with_noise_have_the_same_bits(tmp_path: Path) -> None:
    base = save(llama(), tmp_path / "base")
    folder = noise_folder(NOISE, open_checkpoint(base)).path
    checkpoints = open_together({"base": base, "noise": folder, "other": base}, "base")
    for method in ("task_arithmetic", "ties", "dare_ties"):
        sources = (
            RecipeSource("other", {"weight": Profile.of(0.5)}),
            RecipeSource("noise", {"weight": Profile.of({"attention": [-1.0, 2.0], "default": 1})}),
        )
        recipe = Recipe(method, sources, "base", seed=2)
        merge_to_folder(recipe, checkpoints, tmp_path / method)
        exported = open_checkpoint(tmp_path / method)
        for name, tensor in ResidentEngine(checkpoints).merge(recipe):
            assert torch.equal(tensor, exported.read(name)), (method, name)


@pytest.mark.parametrize("noise", [NOISE, Noise(1), Noise(1024, 2**32 - 1, 1e-05)])
def test_a_reference_says_what_the_noise_is(noise: Noise) -> None:
    assert Noise.parse(noise.text) == noise
    assert resolve(noise.text, Path("/nowhere")) == noise.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noise:", "got ''"),
        ("noise:seed=3", "a rank from 1"),
        ("noise:rank=0", "a rank from 1"),
        ("noise:rank=8,rank=8", "got 'rank=8'"),
        ("noise:rank=8,colour=3", "got 'colour=3'"),
        ("noise:rank=-8", "got 'rank=-8'"),
        ("noise:rank=8,scale=nan", "got 'scale=nan'"),
        ("noise:rank=8,scale=0", "scale above 0"),
        ("noise:rank=8,seed=4294967296", "a seed below"),
    ],
)
def test_a_reference_that_is_wrong_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve(text, Path("/nowhere"))


def test_a_base_without_layers_is_refused(tmp_path: Path) -> None:
    from automerge.checkpoints import MemoryCheckpoint

    flat = MemoryCheckpoint({"head.weight": torch.ones(3, 3)})
    with pytest.raises(PreflightError, match="no matrices in its layers"):
        noise_folder(NOISE, flat)
