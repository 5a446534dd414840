"""Aligned models compute the same function, nearer to the base; what was planted is undone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf

from automerge.checkpoints import MemoryCheckpoint, alignments, stored_parts, transformed
from automerge.checkpoints.symmetries.descent import MATCHES
from automerge.checkpoints.symmetries.kept import ENDING, cache_folder
from automerge.checkpoints.symmetries.match import (
    assignment,
    circuits,
    grouped_assignment,
    orthogonal,
    planar,
    planar_circuits,
)
from automerge.checkpoints.symmetries.roles import FAMILIES, UNITS, Anatomy, anatomy
from automerge.checkpoints.symmetries.transform import Heads, Transform
from automerge.errors import PreflightError
from automerge.files.align import ACTIVATION_MATCHING, KINDS, Align
from tests.merging.test_architectures import COMMON, CONFIGS, GROUPED, auto

ALIGNED: Mapping[str, Callable[[], hf.PretrainedConfig]] = {
    **{name: make for name, make in CONFIGS.items() if "t5" not in name and name != "olmo"},
    "gemma": lambda: hf.GemmaConfig(**GROUPED, head_dim=8),
    "llama with biases": lambda: hf.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "neox": lambda: hf.GPTNeoXConfig(**COMMON, use_parallel_residual=False, rotary_pct=0.5),
}
INPUTS = torch.tensor([[3, 9, 27, 5, 11, 33, 21, 63, 40, 2]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def random_model(config: hf.PretrainedConfig, seed: int) -> hf.PreTrainedModel:
    """A model with random norms and biases too."""
    torch.manual_seed(seed)
    model = auto(config).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def checkpoint(model: hf.PreTrainedModel, name: str) -> MemoryCheckpoint:
    """What would be stored of a model, each tied tensor once."""
    parts = stored_parts(model, model.state_dict())
    if model.config.tie_word_embeddings:
        parts = {n: tensor for n, tensor in parts.items() if n != "lm_head.weight"}
    content = {n: tensor.detach().clone() for n, tensor in parts.items()}
    return MemoryCheckpoint(content, Path(f"no folder/{name}"), model.config.to_dict())


def body(model: MemoryCheckpoint) -> Anatomy:
    return anatomy(model.config, {name: info.shape for name, info in model.tensors.items()})


def logits(config: hf.PretrainedConfig, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits of a model that holds these tensors."""
    model = auto(config).from_config(config).eval()
    live = stored_parts(model, model.state_dict())
    with torch.no_grad():
        for name, tensor in tensors.items():
            live[name].copy_(tensor)
        found: torch.Tensor = model(INPUTS).logits
    return found


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((one[n].double() - other[n].double()).square().sum()) for n in one))


def read(model) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    return {name: model.read(name) for name in model.tensors}


def rotations(n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    numbers = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(numbers)[0]


def planes(n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Rotations of the pairs (i, i + size / 2)."""
    angles = 2 * math.pi * torch.rand(n, size // 2, generator=generator, dtype=torch.float64)
    made = torch.zeros(n, size, size, dtype=torch.float64)
    for head, i in itertools.product(range(n), range(size // 2)):
        j, angle = i + size // 2, float(angles[head, i])
        made[head, i, i] = made[head, j, j] = math.cos(angle)
        made[head, i, j], made[head, j, i] = -math.sin(angle), math.sin(angle)
    return made


def planted(own: Anatomy, kind: str, seed: int = 0) -> Transform:
    """Random permutations, and rotations where the kind knows them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = own.shapes

    def shuffled(n: int) -> torch.Tensor:
        return torch.randperm(n, generator=generator)

    def heads() -> Heads:
        keys, per = shuffled(shapes.n_key_heads), shapes.per_key
        made = Heads(torch.cat([key * per + shuffled(per) for key in keys]), keys)
        if kind == "git_rebasin":
            return made
        size, n = shapes.head_size, shapes.n_key_heads
        made = replace(made, values=rotations(n, size, generator).float())
        if not shapes.rotates:
            return made
        turns, rotary = torch.zeros(n, size, size), shapes.rotary
        turns[:, :rotary, :rotary] = planes(n, rotary, generator)
        turns[:, rotary:, rotary:] = rotations(n, size - rotary, generator)
        return replace(made, turns=turns)

    units = {g: size for g, size in own.sizes.items() if g.role == UNITS}
    (width,) = (size for group, size in own.sizes.items() if group.layer is None)
    return Transform(
        shuffled(width),
        {layer: heads() for layer in own.layers},
        {(g.layer, g.expert): shuffled(size) for g, size in units.items() if g.layer is not None},
    )


@pytest.mark.sample(6)
@pytest.mark.parametrize("kind", MATCHES)
@pytest.mark.parametrize("name", ALIGNED)
def test_what_was_planted_changes_no_logit_and_is_undone(name: str, kind: str) -> None:
    config = ALIGNED[name]()
    base = checkpoint(random_model(config, 0), "base")
    own = body(base)
    change = planted(own, kind)
    moved = {n: change.apply(tensor, own.axes[n], own.shapes) for n, tensor in base.content.items()}
    assert distance(moved, base.content) > 1
    expected = logits(config, base.content)
    torch.testing.assert_close(logits(config, moved), expected, rtol=0, atol=1e-5)
    source = replace(base, content=moved)
    found = transformed({"base": base, "source": source}, "base", {"source": kind})["source"]
    for tensor, original in base.content.items():
        exact = kind == "git_rebasin"
        torch.testing.assert_close(
            found.read(tensor), original, rtol=0, atol=0 if exact else 1e-6, msg=tensor
        )


@pytest.mark.sample(6)
@pytest.mark.parametrize("kind", MATCHES)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2", "phi", "qwen3 moe"])
def test_any_other_model_computes_the_same_and_comes_nearer(name: str, kind: str) -> None:
    config = ALIGNED[name]()
    base, source = (checkpoint(random_model(config, seed), str(seed)) for seed in (0, 1))
    found = transformed({"base": base, "source": source}, "base", {"source": kind})["source"]
    aligned = read(found)
    expected = logits(config, source.content)
    torch.testing.assert_close(logits(config, aligned), expected, rtol=0, atol=1e-5)
    assert distance(aligned, base.content) < distance(source.content, base.content)


@pytest.mark.parametrize("kind", MATCHES)
def test_a_model_in_the_order_of_its_base_is_read_as_it_is(kind: str) -> None:
    config = ALIGNED["llama"]()
    base = checkpoint(random_model(config, 0), "base")
    noise = torch.Generator().manual_seed(3)
    near = {
        n: tensor + 1e-3 * torch.randn(tensor.shape, generator=noise)
        for n, tensor in base.content.items()
    }
    models = {"base": base, "same": base, "near": replace(base, content=near)}
    found = transformed(models, "base", {"same": kind, "near": kind})
    assert not any(found["same"].rearranged(name) for name in base.tensors)
    assert all(found["same"].read(name) is base.content[name] for name in base.tensors)
    if kind == "git_rebasin":
        assert not any(found["near"].rearranged(name) for name in base.tensors)
    else:
        assert distance(read(found["near"]), base.content) <= distance(near, base.content)


def test_rotated_tensors_keep_their_dtype() -> None:
    config = ALIGNED["llama"]()
    base = checkpoint(random_model(config, 0).to(torch.bfloat16), "base")
    source = checkpoint(random_model(config, 1).to(torch.bfloat16), "source")
    models = {"base": base, "source": source}
    found = transformed(models, "base", {"source": "rotation_fusion"})["source"]
    assert dict(found.tensors) == dict(source.tensors)
    assert {tensor.dtype for tensor in read(found).values()} == {torch.bfloat16}
    aligned = {name: tensor.float() for name, tensor in read(found).items()}
    expected = logits(config, {name: tensor.float() for name, tensor in source.content.items()})
    torch.testing.assert_close(logits(config, aligned), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["t5", "olmo"])
def test_an_architecture_whose_symmetries_are_not_known_is_refused(name: str) -> None:
    model = checkpoint(random_model(CONFIGS[name](), 0), name)
    with pytest.raises(PreflightError) as raised:
        transformed({"base": model, "own": model}, "base", {"own": "git_rebasin"})
    message = str(raised.value)
    assert f"is not known for the architecture '{name}'" in message
    assert all(known in message for known in FAMILIES)


def test_a_tensor_that_is_not_known_is_refused_by_name() -> None:
    base = checkpoint(random_model(ALIGNED["llama"](), 0), "base")
    more = {**base.content, "model.layers.0.self_attn.sinks": torch.zeros(4)}
    odd = replace(base, content=more)
    with pytest.raises(PreflightError, match=r"a llama with model\.layers\.0\.self_attn\.sinks"):
        transformed({"base": odd, "own": odd}, "base", {"own": "git_rebasin"})


def test_the_base_itself_is_refused() -> None:
    base = checkpoint(random_model(ALIGNED["llama"](), 0), "base")
    with pytest.raises(PreflightError, match="base: is what the others are aligned with"):
        transformed({"base": base}, "base", {"base": "git_rebasin"})


def test_an_alignment_is_computed_once_and_found_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ALIGNED["llama"]()
    models = {str(seed): checkpoint(random_model(config, seed), str(seed)) for seed in (0, 1)}

    def aligned(how: str, *near: Path) -> Mapping[str, torch.Tensor]:
        found = transformed(models, "0", {"1": how}, near)
        named.append(alignments(found)["1"])
        return read(found["1"])

    named: list[str] = []
    first = aligned("rotation_fusion")
    how = named[0]
    [file] = cache_folder().glob(f"*{ENDING}")
    assert how == f"rotation_fusion@{file.name.removesuffix(ENDING)}"
    beside = tmp_path / "beside"
    beside.mkdir()
    file.replace(beside / file.name)
    again = [aligned("rotation_fusion"), aligned(how, beside)]
    monkeypatch.setattr("automerge.checkpoints.symmetries.kept.aligned", None)
    again += [aligned("rotation_fusion"), aligned(how)]
    assert set(named) == {how}
    for tensors in again:
        assert all(torch.equal(first[name], tensor) for name, tensor in tensors.items())


def test_another_alignment_than_the_one_named_is_refused() -> None:
    config = ALIGNED["llama"]()
    models = {str(seed): checkpoint(random_model(config, seed), str(seed)) for seed in (0, 1)}
    other = "0" * 32
    with pytest.raises(PreflightError, match=rf"expected {other}.*beside the recipe"):
        transformed(models, "0", {"1": f"git_rebasin@{other}"})


def test_files_that_are_not_this_models_alignment_are_refused(tmp_path: Path) -> None:
    large = ALIGNED["llama"]()
    small = hf.LlamaConfig(**{**GROUPED, "intermediate_size": 40})
    models = {}
    for size, config in (("large", large), ("small", small)):
        for seed in (0, 1):
            models[f"{size}{seed}"] = checkpoint(random_model(config, seed), f"{size}{seed}")
    large_only = {name: model for name, model in models.items() if "large" in name}
    how = alignments(transformed(large_only, "large0", {"large1": "git_rebasin"}))["large1"]
    small_only = {name: model for name, model in models.items() if "small" in name}
    with pytest.raises(PreflightError, match="a model of another shape"):
        transformed(small_only, "small0", {"small1": how})
    file = cache_folder() / f"{Align.parse(how).digest}{ENDING}"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(PreflightError, match="damaged: its bytes do not match its name"):
        transformed(large_only, "large0", {"large1": how})


def test_the_assignment_is_the_best_of_all() -> None:
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    best = max(
        itertools.permutations(range(5)), key=lambda p: sum(similarity[i, p[i]] for i in range(5))
    )
    assert assignment(similarity).tolist() == list(best)
    assert assignment(torch.zeros(4, 4)).tolist() == [0, 1, 2, 3]


def test_the_grouped_assignment_is_the_best_that_keeps_groups_together() -> None:
    similarity = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    inner = list(itertools.permutations(range(2)))
    candidates = [
        [group * 2 + i for group, order in zip(groups, orders, strict=True) for i in order]
        for groups in itertools.permutations(range(3))
        for orders in itertools.product(inner, repeat=3)
    ]
    best = max(candidates, key=lambda p: sum(float(similarity[i, p[i]]) for i in range(6)))
    heads, groups = grouped_assignment(similarity, 2)
    assert heads.tolist() == best
    assert (heads[::2] // 2).tolist() == groups.tolist()


def test_no_rotation_is_better_than_that_of_procrustes() -> None:
    generator = torch.Generator().manual_seed(2)
    ours, theirs = torch.randn(2, 6, 20, generator=generator, dtype=torch.float64)
    found = orthogonal(ours @ theirs.T)
    torch.testing.assert_close(found @ found.T, torch.eye(6, dtype=torch.float64))
    least = float((ours - found @ theirs).norm())
    for rotation in rotations(50, 6, generator):
        assert least <= float((ours - rotation @ theirs).norm())
        near = found @ torch.linalg.matrix_exp(0.01 * (rotation - rotation.T))
        assert least <= float((ours - near @ theirs).norm())


def test_no_angles_are_better_than_those_found() -> None:
    generator = torch.Generator().manual_seed(3)
    ours, theirs = torch.randn(2, 4, 10, generator=generator, dtype=torch.float64)
    found = planar(ours @ theirs.T)
    least = float((ours - found @ theirs).norm())
    grid = [2 * math.pi * k / 60 for k in range(60)]
    for first, second in itertools.product(grid, grid):
        other = torch.zeros(4, 4, dtype=torch.float64)
        for i, angle in enumerate((first, second)):
            other[i, i] = other[i + 2, i + 2] = math.cos(angle)
            other[i, i + 2], other[i + 2, i] = -math.sin(angle), math.sin(angle)
        assert least <= float((ours - other @ theirs).norm()) + 1e-12


def test_circuits_are_compared_whatever_their_rotation() -> None:
    generator = torch.Generator().manual_seed(4)
    value, output, other_value, other_output = torch.randn(4, 6, 9, generator=generator).double()
    expected = float(((output.T @ value) * (other_output.T @ other_value)).sum())
    rotation = rotations(1, 6, generator)[0]
    found = circuits(output @ (rotation @ other_output).T, value @ (rotation @ other_value).T)
    assert float(found) == pytest.approx(expected)


def test_circuits_of_queries_and_keys_are_compared_at_every_distance() -> None:
    """The mean over all angles of ⟨Qᵀ R(ω) K, Qᵀ R(ω) K⟩ of two heads is half their product."""
    generator = torch.Generator().manual_seed(5)
    query, key, other_query, other_key = torch.randn(4, 2, 7, generator=generator).double()
    total = 0.0
    for step in range(8):
        angle = 2 * math.pi * step / 8
        cos, sin = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        total += float(((query.T @ turn @ key) * (other_query.T @ turn @ other_key)).sum()) / 8
    rotation = planes(1, 2, generator)[0]
    turned_query, turned_key = rotation @ other_query, rotation @ other_key
    found = planar_circuits(query @ turned_query.T, key @ turned_key.T)
    assert float(found) == pytest.approx(2 * total)


def test_every_kind_but_that_of_activations_matches_weights() -> None:
    assert [*MATCHES, ACTIVATION_MATCHING] == [*KINDS]


@pytest.mark.parametrize("text", ["git-rebasin", "git_rebasin@12", "rebase", "", "git_rebasin@"])
def test_a_text_that_is_no_alignment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected git_rebasin|unknown alignment"):
        Align.parse(text)
