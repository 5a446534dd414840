"""Squared gradients of masks against masks put into the model, and how they reach tensors."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
import transformers as hf

from automerge.checkpoints import stored_parts
from automerge.checkpoints.symmetries.roles import FAMILIES
from automerge.errors import PreflightError
from automerge.evidence import SQUARED_MASK_GRADIENT
from automerge.evidence.gather import removed
from automerge.evidence.gradients import SEED
from automerge.evidence.masks import gather_squared_mask_gradient
from automerge.evidence.parts import groups
from automerge.merging.live import live_tensors
from tests.evaluation.toys import make_model
from tests.merging.test_architectures import CONFIGS

PIECES = [[3, 4, 5, 6], [7, 8]]
N_TOKENS = 6


def toy(kind: str):
    """A model in float32, and its tensors as they are stored."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32).eval()
    model.requires_grad_(False)
    return model, live_tensors(model, stored_parts(model, model.state_dict(keep_vars=True)))


def likelihood(model, number: int) -> torch.Tensor:
    """Σ log p of the labels that are drawn for a sequence."""
    logs = model(torch.tensor([PIECES[number]])).logits[0].log_softmax(-1)
    generator = torch.Generator().manual_seed(SEED + number + 1)
    labels = torch.multinomial(logs.detach().exp(), 1, generator=generator)
    return logs.gather(1, labels).sum()


def masked(model, layers: list[tuple[torch.nn.Module, int, int]]) -> list[torch.Tensor]:
    """Put a mask on the input of every layer, and return their mean squared gradients.

    A layer comes with the number of its masks, and of the entries that each multiplies.
    """
    masks = [torch.ones(n, requires_grad=True) for _, n, _ in layers]
    sums = [torch.zeros(n) for _, n, _ in layers]

    def multiply(mask: torch.Tensor, times: int):
        return lambda _, inputs: (inputs[0] * mask.repeat_interleave(times), *inputs[1:])

    with ExitStack() as stack:
        for (layer, _, times), mask in zip(layers, masks, strict=True):
            stack.enter_context(removed(layer.register_forward_pre_hook(multiply(mask, times))))
        for number in range(len(PIECES)):
            for total, gradient in zip(
                sums, torch.autograd.grad(likelihood(model, number), masks), strict=True
            ):
                total += gradient.square() / N_TOKENS
    return sums


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected.expand_as(found), rtol=2e-3, atol=1e-9)


def test_they_are_those_of_masks_on_heads_and_units_and_reach_the_tensors_as_in_the_paper() -> None:
    model, tensors = toy("qwen2")  # 4 heads, 2 of keys, 8 entries each; biases of q, k and v
    blocks = model.model.layers
    heads = masked(model, [(b.self_attn.o_proj, 4, 8) for b in blocks])
    units = masked(model, [(b.mlp.down_proj, 48, 1) for b in blocks])
    found = gather_squared_mask_gradient(model, tensors, PIECES)
    assert found.keys() == tensors.keys()
    everything = sum(h.mean() + u.mean() for h, u in zip(heads, units, strict=True)) / 2
    for number, (head, unit) in enumerate(zip(heads, units, strict=True)):
        attention, mlp = (f"model.layers.{number}.{part}." for part in ("self_attn", "mlp"))
        for end in ("weight", "bias"):
            shape = (32, 1) if end == "weight" else (32,)
            close(found[f"{attention}q_proj.{end}"], head.repeat_interleave(8).reshape(shape))
            keys = torch.stack([head[:2].mean(), head[2:].mean()]).repeat_interleave(8)
            close(found[f"{attention}k_proj.{end}"], keys.reshape(16, *shape[1:]))
            assert found[f"{attention}v_proj.{end}"].numel() == 1
            close(found[f"{attention}v_proj.{end}"], head.mean())
        close(found[f"{attention}o_proj.weight"], head.mean().reshape(1, 1))
        close(found[f"{mlp}gate_proj.weight"], unit[:, None])
        close(found[f"{mlp}up_proj.weight"], unit[:, None])
        close(found[f"{mlp}down_proj.weight"], unit.mean().reshape(1, 1))
        close(found[f"model.layers.{number}.input_layernorm.weight"], everything.reshape(1))
    close(found["model.embed_tokens.weight"], everything.reshape(1, 1))
    close(found["lm_head.weight"], everything.reshape(1, 1))


def test_fused_and_transposed_tensors_have_each_head_where_it_is() -> None:
    model, tensors = toy("gpt2")  # 4 heads of 8; queries, keys and values side by side in columns
    block = model.transformer.h[1]
    [head] = masked(model, [(block.attn.c_proj, 4, 8)])
    [unit] = masked(model, [(block.mlp.c_proj, 128, 1)])
    found = gather_squared_mask_gradient(model, tensors, PIECES)
    name = next(n for n in tensors if n.endswith("h.1.attn.c_attn.weight"))
    own = head.repeat_interleave(8)
    close(found[name], torch.cat([own, own, head.mean().expand(32)])[None])
    close(found[name.replace("weight", "bias")], found[name][0])
    close(found[name.replace("attn.c_attn", "mlp.c_fc")], unit[None])
    close(found[name.replace("attn.c_attn.weight", "mlp.c_proj.bias")], unit.mean().reshape(1))
    close(found[name.replace("attn.c_attn.weight", "attn.c_proj.bias")], head.mean().reshape(1))

    model, tensors = toy("gpt neox")  # per head its query, key and value, one after the other
    [head] = masked(model, [(model.gpt_neox.layers[0].attention.dense, 4, 8)])
    found = gather_squared_mask_gradient(model, tensors, PIECES)
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    rows = torch.stack([head, head, head.mean().expand(4)], dim=1).repeat_interleave(8, dim=1)
    close(found[name], rows.reshape(-1, 1))


def test_every_expert_has_masks_of_its_own() -> None:
    """A factor of a unit is one of its row of w3, which is linear: Σ w3 ∂/∂w3 over the row."""
    model, tensors = toy("mixtral")
    found = gather_squared_mask_gradient(model, tensors, PIECES)
    stacked = [p for n, p in model.named_parameters() if "layers.1" in n and "experts" in n]
    names = [f"model.layers.1.block_sparse_moe.experts.{i}.w3.weight" for i in range(4)]
    sums = {name: torch.zeros(48, 1) for name in names}
    for number in range(len(PIECES)):
        for parameter in stacked:
            parameter.requires_grad_(True)
            parameter.grad = None
        likelihood(model, number).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients = stored_parts(model, grads)
        for name, total in sums.items():
            row = (gradients[name] * tensors[name].detach()).sum(1, keepdim=True)
            total += row.square() / N_TOKENS
    for name, total in sums.items():
        close(found[name], total)
        close(found[name.replace("w3", "w1")], total)
        close(found[name.replace("w3", "w2")], total.mean().reshape(1, 1))
    router = found["model.layers.1.block_sparse_moe.gate.weight"]
    close(router, torch.cat(list(sums.values())).mean().reshape(1, 1))


@pytest.mark.parametrize("kind", [k for k, c in CONFIGS.items() if c().model_type in FAMILIES])
def test_every_tensor_of_an_architecture_that_is_known_has_some(kind: str) -> None:
    model, tensors = toy(kind)
    found = gather_squared_mask_gradient(model, tensors, [[3, 4, 5, 6]])
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.broadcast_shapes(found[name].shape, tensor.shape) == tensor.shape
        assert found[name].numel() <= SQUARED_MASK_GRADIENT.elements(tuple(tensor.shape))
        assert (found[name] >= 0).all()
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_an_architecture_that_is_not_known_is_refused_in_a_sentence() -> None:
    model = make_model("bloom").eval()
    tensors = dict(model.named_parameters())
    with pytest.raises(PreflightError, match=r"no masks of heads and units: .*'bloom'; supported"):
        gather_squared_mask_gradient(model, tensors, PIECES)


def test_they_are_gathered_for_all_tensors_together_or_not_at_all() -> None:
    shapes = {"a": (10, 10), "b": (10, 5), "c": (7,), "d": ()}
    assert groups(SQUARED_MASK_GRADIENT, shapes, 4 * 28) == [["a", "b", "c", "d"]]
    with pytest.raises(PreflightError, match="for all tensors together, which takes more than"):
        groups(SQUARED_MASK_GRADIENT, shapes, 4 * 27)
