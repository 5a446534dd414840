"""Alignment by activations: what was planted is undone, whatever the order of everything else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from automerge.checkpoints import (
    Checkpoint,
    alignments,
    open_checkpoint,
    stored_parts,
    transformed,
)
from automerge.checkpoints.symmetries.activations import matched_heads, taps
from automerge.checkpoints.symmetries.kept import ENDING, cache_folder
from automerge.checkpoints.symmetries.roles import OUTPUT, STREAM, UNITS, anatomy
from automerge.errors import PreflightError
from automerge.evidence.correlation import CrossMoments, gather_correlation
from automerge.files.align import ACTIVATION_MATCHING
from automerge.session.gathering import GatherSettings
from automerge.session.matching import TextReading
from tests.checkpoints.models import WORDS, tokenizer
from tests.checkpoints.test_symmetries import (
    ALIGNED,
    body,
    checkpoint,
    distance,
    logits,
    planted,
    random_model,
    read,
)

SETTINGS = GatherSettings(tokens=240, length=30, device="cpu")
ALIGN = {"source": ACTIVATION_MATCHING}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def reading(tmp_path: Path) -> TextReading:
    numbers = torch.randint(3, 64, (240,), generator=torch.Generator().manual_seed(4))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS[n] for n in numbers.tolist()))
    return TextReading({None: text}, SETTINGS)


def saved(
    folder: Path, config: hf.PretrainedConfig, seed: int, tensors: Mapping[str, torch.Tensor] = {}
) -> Path:
    """A model on disk, holding these tensors in place of its own."""
    model = random_model(config, seed)
    parts = stored_parts(model, model.state_dict())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parts[name].copy_(tensor)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def opened(base: Path, source: Path) -> dict[str, Checkpoint]:
    reference = open_checkpoint(base)
    return {"base": reference, "source": open_checkpoint(source, reference)}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "gemma2", "phi3", "olmo2", "qwen2 moe"])
def test_what_was_planted_is_undone(name: str, tmp_path: Path, reading: TextReading) -> None:
    config = ALIGNED[name]()
    model = checkpoint(random_model(config, 0), "base")
    own = body(model)
    change = planted(own, "git_rebasin")
    moved = {n: change.apply(t, own.axes[n], own.shapes) for n, t in model.content.items()}
    base = saved(tmp_path / "base", config, 0)
    models = opened(base, saved(tmp_path / "source", config, 0, moved))
    assert distance(read(models["source"]), read(models["base"])) > 1
    found = transformed(models, "base", ALIGN, reading=reading)["source"]
    for tensor in models["base"].tensors:
        assert torch.equal(found.read(tensor), models["base"].read(tensor)), tensor


@pytest.mark.parametrize("name", ["llama with biases", "gpt2", "qwen3 moe"])
def test_any_other_model_computes_the_same(name: str, tmp_path: Path, reading: TextReading) -> None:
    config = ALIGNED[name]()
    models = opened(*(saved(tmp_path / str(seed), config, seed) for seed in (0, 1)))
    found = transformed(models, "base", ALIGN, reading=reading)["source"]
    assert any(found.rearranged(tensor) for tensor in found.tensors)  # type: ignore[attr-defined]
    expected = logits(config, read(models["source"]))
    torch.testing.assert_close(logits(config, read(found)), expected, rtol=0, atol=1e-5)


def test_an_alignment_is_found_by_its_digest_without_the_text(
    tmp_path: Path, reading: TextReading
) -> None:
    config = ALIGNED["llama"]()
    models = opened(*(saved(tmp_path / str(seed), config, seed) for seed in (0, 1)))
    first = transformed(models, "base", ALIGN, reading=reading)
    how = alignments(first)["source"]
    [file] = cache_folder().glob(f"*{ENDING}")
    assert how == f"{ACTIVATION_MATCHING}@{file.name.removesuffix(ENDING)}"
    again = transformed(models, "base", {"source": how})["source"]
    assert all(torch.equal(first["source"].read(n), again.read(n)) for n in again.tensors)
    text = reading.texts[None]
    text.write_text(text.read_text() + " w1")
    transformed(models, "base", ALIGN, reading=reading)
    assert len(list(cache_folder().glob("*.json"))) == 2
    file.unlink()
    with pytest.raises(PreflightError, match=rf"source: no alignment .* copy {file.name} there"):
        transformed(models, "base", {"source": how}, reading=reading)


def test_without_a_text_it_is_refused(tmp_path: Path) -> None:
    config = ALIGNED["llama"]()
    models = opened(*(saved(tmp_path / str(seed), config, seed) for seed in (0, 1)))
    with pytest.raises(PreflightError, match=r"source: activation_matching needs text: .*gather"):
        transformed(models, "base", ALIGN)
    other = TextReading({"another": tmp_path}, SETTINGS)
    with pytest.raises(PreflightError, match=r"source: there is no text .*: name one for source"):
        transformed(models, "base", ALIGN, reading=other)


@pytest.mark.parametrize("name", ALIGNED)
def test_every_group_but_experts_is_seen(name: str) -> None:
    model = checkpoint(random_model(ALIGNED[name](), 0), name)
    own = body(model)
    found = taps(own)
    groups = {g for g in own.sizes if g.role in (STREAM, UNITS, OUTPUT)}
    assert set(found.values()) == groups
    per_layer = [n for n, group in found.items() if group.role == STREAM and "experts." not in n]
    shared = 1 if "moe" in name else 0
    assert len(per_layer) <= (2 + shared) * len(own.layers)
    for tensor, group in found.items():
        inputs = own.lengths[tensor][0 if own.transposed else 1]
        assert inputs == own.sizes[group]


def test_correlations_are_those_of_numpy_however_the_text_is_cut() -> None:
    torch.manual_seed(0)
    models = [hf.LlamaForCausalLM(ALIGNED["llama"]()).eval() for _ in range(2)]
    name = "model.layers.1.mlp.down_proj.weight"
    layers = [model.model.layers[1].mlp.down_proj for model in models]
    pieces = [[3, 9, 27, 5], [7, 8], [11, 33, 21, 60, 40, 2], [5]]
    [found] = gather_correlation(*models, {name: (layers[0], layers[1])}, pieces).values()
    rows: list[list[torch.Tensor]] = [[], []]
    for own, model, layer in zip(rows, models, layers, strict=True):
        seen = own
        handle = layer.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0][0]))
        with torch.no_grad():
            for piece in pieces:
                model(torch.tensor([piece]))
        handle.remove()
    ours, theirs = (torch.cat(own).double().numpy() for own in rows)
    expected = np.corrcoef(ours.T, theirs.T)[: ours.shape[1], ours.shape[1] :]
    # Float32 products of 13 rows.
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_columns_far_from_zero_lose_no_digits_and_constant_ones_correlate_with_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    ours, theirs = torch.randn(2, 64, 3, generator=generator, dtype=torch.float64)
    theirs = theirs + 0.5 * ours
    expected = np.corrcoef(ours.numpy().T, theirs.numpy().T)[:3, 3:]
    constant = torch.ones(64, 1, dtype=torch.float64)
    ours, theirs = torch.cat([ours + 1e6, constant], 1), torch.cat([theirs - 1e6, constant], 1)
    cuts = [0, 10, 11, 40, 64]
    parts = [CrossMoments.of(ours[a:b], theirs[a:b]) for a, b in itertools.pairwise(cuts)]
    found = (parts[0] + parts[1] + (parts[2] + parts[3])).correlations().numpy()
    # A mean of 1e6 has 1e-10 of error in float64, products 1e-7 of their size in float32.
    np.testing.assert_allclose(found[:3, :3], expected, atol=1e-6)
    assert not found[3].any()
    assert not found[:, 3].any()


def test_heads_and_the_entries_within_them_are_found_whatever_their_signs() -> None:
    generator = torch.Generator().manual_seed(2)
    size, per_key = 4, 2
    correlation = torch.zeros(6 * size, 6 * size)
    queries = torch.tensor([3, 2, 4, 5, 0, 1])  # groups of two: the second, the third, the first
    orders = torch.stack([torch.randperm(size, generator=generator) for _ in range(3)])
    for place, head in enumerate(queries.tolist()):
        for entry, other in enumerate(orders[place // per_key].tolist()):
            correlation[place * size + entry, head * size + other] = 0.9 if place % 2 else 0.8
    correlation += 0.05 * torch.randn(correlation.shape, generator=generator)
    found = matched_heads(correlation, size, per_key)
    assert found.queries.tolist() == queries.tolist()
    assert found.keys.tolist() == [1, 2, 0]
    assert found.values is not None
    assert torch.equal(found.values, torch.eye(size)[orders])
    assert torch.equal(matched_heads(-correlation, size, per_key).queries, queries)
    assert matched_heads(torch.eye(8), 4, 1).values is None


def test_the_anatomy_says_how_matrices_are_stored() -> None:
    for name, expected in (("gpt2", True), ("llama", False)):
        model = checkpoint(random_model(ALIGNED[name](), 0), name)
        shapes = {n: info.shape for n, info in model.tensors.items()}
        assert anatomy(model.config, shapes).transposed is expected
