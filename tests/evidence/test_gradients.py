"""Gradients gathered on text against naive ones, and evidence gathered in parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from automerge.checkpoints import stored_parts
from automerge.errors import PreflightError
from automerge.evidence import INPUT_GRAM, SQUARED_GRADIENT, write_evidence
from automerge.evidence.file import open_evidence
from automerge.evidence.gradients import SEED, gather_gradient, gather_squared_gradient
from automerge.evidence.parts import Parts, groups
from automerge.merging.live import live_tensors
from tests.evaluation.toys import make_model
from tests.merging.test_architectures import CONFIGS

NORM = "model.norm.weight"


def logs(model, piece) -> torch.Tensor:
    return model(torch.tensor([piece])).logits[0].double().log_softmax(-1)


def toy():
    model = make_model("llama", 0).float().eval()
    model.requires_grad_(False)
    return model, dict(model.named_parameters())


def test_squared_gradients_are_those_of_labels_drawn_from_the_model() -> None:
    model, tensors = toy()
    pieces = [[3, 4, 5, 6], [7, 8]]
    found = gather_squared_gradient(model, tensors, pieces)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    model.requires_grad_(True)
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in tensors.items()}
    for n, piece in enumerate(pieces, start=1):
        given = logs(model, piece)
        p = model(torch.tensor([piece])).logits[0].log_softmax(-1).exp()
        drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(SEED + n))
        gradients = torch.autograd.grad(given.gather(1, drawn).sum(), list(tensors.values()))
        for name, gradient in zip(tensors, gradients, strict=True):
            expected[name] += gradient.double().square() / 6
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-9)


def test_their_mean_is_the_fisher_information_over_all_labels() -> None:
    model, tensors = toy()
    piece, norm = [3, 4, 5], tensors[NORM]
    norm.requires_grad_(True)
    exact = torch.zeros_like(norm, dtype=torch.float64)
    given = logs(model, piece)
    for position in given:
        for log in position:
            [gradient] = torch.autograd.grad(log, norm, retain_graph=True)
            exact += log.exp().item() * gradient.double().square() / len(piece)
    norm.requires_grad_(False)
    found = gather_squared_gradient(model, {NORM: norm}, [piece] * 600)[NORM]
    # One sequence's sum varies by about as much as its mean, so that of 600 by 4 %.
    assert found.sum().item() == pytest.approx(exact.sum().item(), rel=0.2)


def test_gradients_are_of_the_mean_loss_of_all_tokens_with_one_before() -> None:
    model, tensors = toy()
    pieces = [[3, 4, 5, 6], [7], [7, 8]]
    found = gather_gradient(model, tensors, pieces)
    model.requires_grad_(True)
    loss = sum(
        -logs(model, piece)[:-1].gather(1, torch.tensor(piece[1:])[:, None]).sum() / 4
        for piece in (pieces[0], pieces[2])
    )
    gradients = torch.autograd.grad(loss, list(tensors.values()))
    for name, gradient in zip(tensors, gradients, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-7)


def test_each_expert_has_its_own_part_of_a_stacked_gradient() -> None:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS["mixtral"]()).eval()
    model.requires_grad_(False)
    stored = stored_parts(model, model.state_dict(keep_vars=True))
    experts = [f"model.layers.0.block_sparse_moe.experts.{i}." for i in range(4)]
    wanted = [f"{expert}w{n}.weight" for expert in experts for n in (1, 2, 3)]
    live = live_tensors(model, stored)
    found = gather_gradient(model, {name: live[name] for name in wanted}, [[3, 4, 5, 6]])
    wholes = [p for n, p in model.named_parameters() if "layers.0" in n and "experts" in n]
    for whole in wholes:
        whole.requires_grad_(True)
    loss = -logs(model, [3, 4, 5, 6])[:-1].gather(1, torch.tensor([[4], [5], [6]])).mean()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(wholes)
    expected = stored_parts(model, gradients)
    assert set(wanted) == set(expected) == set(found)
    for name in wanted:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-7)


def test_tensors_are_grouped_by_the_room_for_their_sums() -> None:
    shapes = {"a": (10, 10), "b": (10, 5), "c": (7,), "d": (20, 10)}
    assert groups(SQUARED_GRADIENT, shapes, None) == [["a", "b", "c", "d"]]
    assert groups(SQUARED_GRADIENT, shapes, 800) == [["a", "b", "c"], ["d"]]
    assert groups(INPUT_GRAM, shapes, 400) == [["a"], ["b"], ["d"]]
    with pytest.raises(PreflightError, match="squared_gradient of d takes 8e-07 GB"):
        groups(SQUARED_GRADIENT, shapes, 700)


def test_parts_of_a_stopped_run_are_kept_and_the_file_has_the_same_bytes(tmp_path: Path) -> None:
    model, tensors = toy()
    pieces = [[3, 4, 5, 6], [7, 8]]
    whole = gather_squared_gradient(model, tensors, pieces)
    expected = write_evidence(tmp_path / "whole", "squared_gradient", {}, whole)
    names = list(tensors)
    for group in (names[:3], names[3:]):  # each by a process of its own
        parts = Parts(tmp_path / "parts")
        asked = [name for name in group if name not in parts.done]
        parts.add(asked, gather_squared_gradient(model, {n: tensors[n] for n in asked}, pieces))
    parts = Parts(tmp_path / "parts")
    assert parts.done == set(names)
    found = write_evidence(tmp_path / "found", "squared_gradient", {}, parts)
    assert found.digest == expected.digest
    opened = open_evidence(found.path)
    assert all(torch.equal(opened.read(name), whole[name]) for name in names)
