"""RegMean against least squares, and evidence on its way through both engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint, open_checkpoint
from automerge.errors import ConfigError, PreflightError
from automerge.evidence import (
    EvidenceFile,
    EvidenceFolders,
    MemoryEvidence,
    write_evidence,
)
from automerge.evidence.gather import Text, gather_input_gram, read_text, sequences
from automerge.merging import InvalidMerge, ResidentEngine, merge_to_folder
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.evaluation.toys import make_model, make_tokenizer

NAME = "model.layers.0.mlp.up_proj.weight"


def recipe(weights: dict[str, float], off_diagonal: float, digests: dict[str, str]) -> Recipe:
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items())
    knobs = {"off_diagonal": Profile.of(off_diagonal)}
    return Recipe("regmean", sources, knobs=knobs, evidence={"input_gram": digests})


def inputs(seed: int, n: int = 40, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


def merged(weights: dict[str, float], off_diagonal: float) -> tuple[np.ndarray, dict, dict]:
    rows = {name: inputs(i) for i, name in enumerate(weights)}
    layers = {name: inputs(10 + i, 5) for i, name in enumerate(weights)}
    evidence = {
        name: MemoryEvidence("input_gram", name, {NAME: torch.tensor(x.T @ x / len(x))})
        for name, x in rows.items()
    }
    models = {n: MemoryCheckpoint({NAME: torch.tensor(w)}) for n, w in layers.items()}
    engine = ResidentEngine(models, evidence=evidence)
    [(_, found)] = engine.merge(recipe(weights, off_diagonal, {n: n for n in weights}))
    return found.numpy(), rows, layers


def test_the_merged_layer_is_the_least_squares_fit_to_the_sources_outputs() -> None:
    weights = {"a": 0.7, "b": 0.2, "c": 0.4}
    found, rows, layers = merged(weights, 1.0)
    # Rows scaled by sqrt(w / n): min Σ wᵢ/nᵢ |Xᵢ Wᵀ − Xᵢ Wᵢᵀ|², without Gram matrices.
    scale = {n: np.sqrt(w / len(rows[n])) for n, w in weights.items()}
    left = np.vstack([scale[n] * rows[n] for n in weights])
    right = np.vstack([scale[n] * rows[n] @ layers[n].T for n in weights])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    # The ridge moves the solution by about its own size, 1e-6.
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_without_off_diagonals_each_input_is_averaged_by_its_own_energy() -> None:
    weights = {"a": 0.7, "b": 0.2}
    found, rows, layers = merged(weights, 0.0)
    energy = {n: w * (rows[n] ** 2).mean(axis=0) for n, w in weights.items()}
    expected = sum(layers[n] * energy[n] for n in weights) / sum(energy.values())
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_input_that_is_always_zero_is_averaged_by_the_weights() -> None:
    layers = {n: torch.tensor(inputs(i, 5)) for i, n in enumerate("ab")}
    gram = torch.eye(6, dtype=torch.float64)
    gram[2, 2] = 0
    models = {n: MemoryCheckpoint({NAME: w}) for n, w in layers.items()}
    evidence = {n: MemoryEvidence("input_gram", n, {NAME: gram}) for n in "ab"}
    made = recipe({"a": 1.0, "b": 3.0}, 0.9, {"a": "a", "b": "b"})
    [(_, found)] = ResidentEngine(models, evidence=evidence).merge(made)
    expected = 0.25 * layers["a"] + 0.75 * layers["b"]
    torch.testing.assert_close(found[:, 2], expected[:, 2])


def test_a_recipe_without_evidence_with_another_kind_or_with_a_missing_file_is_refused(
    tmp_path: Path,
) -> None:
    models = {n: MemoryCheckpoint({NAME: torch.ones(2, 3)}) for n in "ab"}
    made = recipe({"a": 1.0, "b": 1.0}, 0.9, {"a": "0" * 32, "b": "1" * 32})
    with pytest.raises(ConfigError, match="needs evidence of the kind input_gram from a, b"):
        list(ResidentEngine(models).merge(replace(made, evidence={})))
    with pytest.raises(PreflightError, match=f"no evidence {'0' * 32} in {tmp_path}"):
        list(ResidentEngine(models, evidence=EvidenceFolders([tmp_path])).merge(made))
    other = {d: MemoryEvidence("fisher", d, {}) for d in made.evidence["input_gram"].values()}
    with pytest.raises(PreflightError, match="is fisher, expected input_gram"):
        list(ResidentEngine(models, evidence=other).merge(made))


def test_a_file_is_named_by_its_bytes_and_refused_when_one_of_them_changes(tmp_path: Path) -> None:
    written = write_evidence(tmp_path, "input_gram", {"tokens": 3}, {NAME: torch.eye(3)})
    again = write_evidence(tmp_path, "input_gram", {"tokens": 3}, {NAME: torch.eye(3)})
    assert written.digest == again.digest
    opened = EvidenceFolders([tmp_path])[written.digest]
    assert opened == EvidenceFile(written.path, "input_gram", written.digest, {"tokens": 3})
    assert torch.equal(opened.read(NAME), torch.eye(3))  # type: ignore[arg-type]
    assert opened.read("other") is None
    content = bytearray(written.path.read_bytes())
    content[-1] ^= 1
    written.path.write_bytes(content)
    with pytest.raises(PreflightError, match="is damaged"):
        EvidenceFolders([tmp_path])[written.digest]
    with pytest.raises(PreflightError, match="no evidence"):
        EvidenceFolders([tmp_path])["../" + written.digest]


def test_gram_matrices_are_those_of_the_inputs_that_reach_each_layer() -> None:
    model = make_model("llama", 0).float().eval()
    state = dict(model.named_parameters())
    pieces = [[3, 4, 5, 6], [7, 8]]
    grams = gather_input_gram(model, state, pieces)
    name = next(n for n in grams if "up_proj" in n)
    layer = model.get_submodule(name.removesuffix(".weight"))
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        handle = layer.register_forward_hook(lambda _, given, __: seen.append(given[0][0]))
        for piece in pieces:
            model(torch.tensor([piece]))
        handle.remove()
    rows = torch.cat(seen).double()
    expected = rows.T @ rows / len(rows)
    torch.testing.assert_close(grams[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert all(g.shape == (state[n].shape[1],) * 2 for n, g in grams.items())
    assert not any("embed" in n or "norm" in n for n in grams)


def test_live_and_exported_models_have_the_same_bits_and_do_not_merge_without_the_file(
    tmp_path: Path,
) -> None:
    checkpoints, digests = {}, {}
    for i, name in enumerate("ab"):
        model = make_model("llama", i)
        model.save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
        checkpoints[name] = open_checkpoint(tmp_path / name)
        state = dict(model.named_parameters())
        grams = gather_input_gram(model, state, [[3 + i, 4, 5, 6, 9, 11]])
        digests[name] = write_evidence(tmp_path / "kept", "input_gram", {}, grams).digest
    made = recipe({"a": 0.6, "b": 0.8}, 0.7, digests)
    evidence = EvidenceFolders([tmp_path / "kept"])
    live = make_model("llama", 0)
    ResidentEngine(checkpoints, evidence=evidence).merge_into(live, made)
    merge_to_folder(made, checkpoints, tmp_path / "out", evidence=evidence)
    exported = open_checkpoint(tmp_path / "out")
    for name, parameter in live.named_parameters():
        if name in exported.tensors:
            assert torch.equal(exported.read(name), parameter), name
    plain = {n: checkpoints[n].read("model.norm.weight") for n in "ab"}
    average = (0.6 * plain["a"] + 0.8 * plain["b"]) / 1.4
    torch.testing.assert_close(exported.read("model.norm.weight"), average)


def test_a_singular_system_is_an_invalid_merge() -> None:
    models = {n: MemoryCheckpoint({NAME: torch.ones(2, 3)}) for n in "ab"}
    evidence = {n: MemoryEvidence("input_gram", n, {NAME: torch.zeros(3, 3)}) for n in "ab"}
    made = recipe({"a": 1.0, "b": 1.0}, 0.9, {"a": "a", "b": "b"})
    with pytest.raises(InvalidMerge):
        list(ResidentEngine(models, evidence=evidence).merge(made))


def test_text_is_cut_into_sequences_of_a_length_up_to_a_number_of_tokens(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("w1 w2 w3 w4 w5")
    (tmp_path / "a.md").write_text("w6 w7")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    text = read_text(tmp_path)
    assert text == Text(("w6 w7", "w1 w2 w3 w4 w5"))
    tokenizer = make_tokenizer()
    pieces = list(sequences(text, tokenizer, 3, 6))
    whole = [tokenizer(document)["input_ids"] for document in text.documents]
    assert len(pieces[0]) == min(3, len(whole[0]))
    assert sum(map(len, pieces)) == 6
    assert [i for p in pieces for i in p] == [i for ids in whole for i in ids][:6]
    with pytest.raises(PreflightError, match="cannot be read as text"):
        read_text(tmp_path / "c.bin")
