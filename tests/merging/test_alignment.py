"""Aligned sources in recipe files and merges: named by digest, rebuilt bit for bit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from automerge.checkpoints import (
    noise_folder,
    open_checkpoint,
    open_together,
    rearranged,
    transformed,
)
from automerge.checkpoints.low_rank import update
from automerge.checkpoints.symmetries.kept import ENDING
from automerge.commands.gather import gather_command
from automerge.commands.merge import merge_file
from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.errors import ConfigError, PreflightError
from automerge.files.align import KINDS
from automerge.files.noise import Noise
from automerge.merging import ResidentEngine
from automerge.recipe import Recipe, RecipeSource, single, uniform_average
from automerge.session.gathering import GatherSettings
from automerge.session.matching import TextReading
from tests.checkpoints.models import WORDS, llama, perturb, save

INPUTS = torch.tensor([[3, 9, 27, 5, 11, 33, 21, 63, 40, 2]])


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models that have nothing in common."""
    root = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(("base", "left", "right")):
        torch.manual_seed(seed)
        save(perturb(llama(), seed, 0.1), root / name)
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "automerge" / "alignments"


def write(zoo: Path, folder: Path, name: str, **changes: object) -> Path:
    recipe = {
        "method": "task_arithmetic",
        "base": "base",
        "sources": {"left": {"weight": 0.5}, "right": {"weight": 0.5}},
        "models": {name: str(zoo / name) for name in ("base", "left", "right")},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: v for key, v in recipe.items() if v}, sort_keys=False))
    return path


def merge(recipe: Path, out: Path) -> Mapping[str, torch.Tensor]:
    merge_file(recipe, out, Console(file=io.StringIO()))
    found: Mapping[str, torch.Tensor] = load_file(out / "model.safetensors")
    return found


def test_a_merge_names_the_alignment_and_is_rebuilt_bit_for_bit(
    zoo: Path, tmp_path: Path, own_cache: Path
) -> None:
    plain = merge(write(zoo, tmp_path, "plain"), tmp_path / "unaligned")
    align = {"left": "git_rebasin", "right": "rotation_fusion"}
    first = merge(write(zoo, tmp_path, "aligned", align=align), tmp_path / "first")
    assert any(not torch.equal(plain[name], first[name]) for name in plain)
    written = yaml.safe_load((tmp_path / "first/recipe.yaml").read_text())
    assert {n: how.partition("@")[0] for n, how in written["align"].items()} == align
    digests = {how.partition("@")[2] for how in written["align"].values()}
    assert {p.name.removesuffix(ENDING) for p in own_cache.glob(f"*{ENDING}")} == digests
    again = merge(tmp_path / "first/recipe.yaml", tmp_path / "again")
    assert all(torch.equal(first[name], again[name]) for name in first)
    mergekit = (tmp_path / "first/mergekit.yaml").read_text()
    assert "mergekit does not align models with their base, as left, right" in mergekit


def test_the_merge_is_that_of_the_aligned_source(zoo: Path, tmp_path: Path) -> None:
    merged = merge(
        write(zoo, tmp_path, "aligned", align={"right": "git_rebasin"}), tmp_path / "out"
    )
    folders = {name: zoo / name for name in ("base", "left", "right")}
    models = open_together(folders, "base", {"right": "git_rebasin"})
    for name, tensor in merged.items():
        base, left, right = (models[m].read(name).double() for m in folders)
        expected = base + 0.5 * (left - base) + 0.5 * (right - base)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


def test_without_a_base_others_are_aligned_with_the_first_or_the_model_called_base(
    zoo: Path, tmp_path: Path
) -> None:
    models = {name: str(zoo / name) for name in ("left", "right")}
    recipe = write(
        zoo, tmp_path, "pair", method="linear", base=None, models=models, align="git_rebasin"
    )
    assert read_recipe(recipe).align == {"right": "git_rebasin"}
    first = merge(recipe, tmp_path / "first")
    models["base"] = str(zoo / "base")
    named = write(
        zoo, tmp_path, "named", method="linear", base=None, models=models, align="git_rebasin"
    )
    assert read_recipe(named).align == {"left": "git_rebasin", "right": "git_rebasin"}
    other = merge(named, tmp_path / "other")
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert "base" in yaml.safe_load((tmp_path / "other/recipe.yaml").read_text())["models"]
    again = merge(tmp_path / "other/recipe.yaml", tmp_path / "again")
    assert all(torch.equal(other[name], again[name]) for name in other)


def test_an_alignment_by_activations_is_gathered_once_and_named_in_the_recipe(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "activation_matching"
    with pytest.raises(PreflightError, match="right: activation_matching needs text"):
        merge(write(zoo, tmp_path, "early", align={"right": kind}), tmp_path / "early")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(" ".join(WORDS[i % 61 + 3] for i in range(90)))
    shown = io.StringIO()
    settings = GatherSettings(tokens=90, length=30, device="cpu")
    models = [f"base={zoo / 'base'}", f"right={zoo / 'right'}"]
    console = Console(file=shown, width=200)
    gather_command(models, "none", ["text.txt"], [kind], settings, console)
    printed = yaml.safe_load(shown.getvalue())
    assert [*printed] == ["align"]
    merged = merge(write(zoo, tmp_path, "matched", **printed), tmp_path / "out")
    folders = {name: zoo / name for name in ("base", "left", "right")}
    found = open_together(folders, "base", printed["align"])
    for name, tensor in merged.items():
        base, left, right = (found[m].read(name).double() for m in folders)
        expected = base + 0.5 * (left - base) + 0.5 * (right - base)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ConfigError, match="--kind none is for alignments alone"):
        gather_command(models, "none", ["text.txt"], [], settings, console)


@pytest.mark.parametrize("kind", ["git_rebasin", "rotation_fusion"])
def test_an_aligned_source_in_the_live_model_computes_what_the_source_does(
    zoo: Path, kind: str
) -> None:
    folders = {name: zoo / name for name in ("base", "left")}
    engine = ResidentEngine(open_together(folders, "base", {"left": kind}))
    live = LlamaForCausalLM.from_pretrained(zoo / "base").eval()
    engine.merge_into(live, single("left"))
    source = LlamaForCausalLM.from_pretrained(zoo / "left").eval()
    with torch.no_grad():
        assert not torch.equal(live.lm_head.weight, source.lm_head.weight)
        torch.testing.assert_close(live(INPUTS).logits, source(INPUTS).logits, rtol=0, atol=1e-5)


def trained(seed: int, chain: torch.Tensor) -> LlamaForCausalLM:
    """A model of a Markov chain, from its own initial weights and its own samples."""
    torch.manual_seed(seed)
    size = len(chain)
    model = llama(vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    steps = 80
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        tokens = walks(chain, 32)
        optimiser.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimiser.step()
    return model.eval()


def walks(chain: torch.Tensor, n: int) -> torch.Tensor:
    """Random walks of a chain, (n, 8)."""
    tokens = torch.randint(len(chain), (n, 1))
    for _ in range(7):
        tokens = torch.cat([tokens, torch.multinomial(chain[tokens[:, -1]], 1)], dim=1)
    return tokens


@pytest.mark.slow
def test_independently_trained_models_have_a_lower_barrier_once_aligned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    chain = (3 * torch.randn(16, 16)).softmax(dim=-1)
    folders = {name: save(trained(i, chain), tmp_path / name) for i, name in enumerate("ab")}
    torch.manual_seed(9)
    tokens, read = walks(chain, 256), walks(chain, 256)
    live = LlamaForCausalLM.from_pretrained(folders["a"]).eval()
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS[token] for token in read.flatten().tolist()))
    reading = TextReading({None: text}, GatherSettings(tokens=2048, length=8, device="cpu"))
    models = open_together(folders, "a")

    def loss(recipe: Recipe, align: Mapping[str, str]) -> float:
        found = transformed(models, "a", align, reading=reading)
        ResidentEngine(found).merge_into(live, recipe)
        with torch.no_grad():
            return float(live(tokens, labels=tokens).loss)

    def distance(align: Mapping[str, str]) -> float:
        base, source = transformed(models, "a", align, reading=reading).values()
        return sum(float((base.read(n) - source.read(n)).square().sum()) for n in base.tensors)

    ends = (loss(single("a"), {}) + loss(single("b"), {})) / 2
    barrier = loss(uniform_average(("a", "b")), {}) - ends
    for kind in KINDS:
        align = {"b": kind}
        assert loss(single("b"), align) == pytest.approx(loss(single("b"), {}), abs=1e-5)
        assert loss(uniform_average(("a", "b")), align) - ends < 0.5 * barrier, kind
        assert distance(align) < distance({}), kind


def test_an_alignment_beside_the_recipe_is_used(zoo: Path, tmp_path: Path, own_cache: Path) -> None:
    first = merge(
        write(zoo, tmp_path, "aligned", align={"right": "rotation_fusion"}), tmp_path / "first"
    )
    [file] = own_cache.glob(f"*{ENDING}")
    beside = tmp_path / "first/evidence"
    beside.mkdir()
    file.replace(beside / file.name)
    for index in own_cache.glob("*.json"):
        index.unlink()
    again = merge(tmp_path / "first/recipe.yaml", tmp_path / "again")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not list(own_cache.glob("*"))


def test_faults_in_a_recipes_alignments_are_all_reported_where_they_are(
    zoo: Path, tmp_path: Path
) -> None:
    align = {"base": "git_rebasin", "left": "git-rebasin", "right": 3, "other": "git_rebasin"}
    path = write(zoo, tmp_path, "wrong", align=align)
    with pytest.raises(ConfigError) as raised:
        read_recipe(path)
    lines = path.read_text().splitlines()
    faults = {
        lines[fault.location.line - 1].strip().partition(":")[0]: fault.message
        for fault in raised.value.faults
        if fault.location is not None and fault.location.line is not None
    }
    assert "'base' is what the others are aligned with" in faults["base"]
    assert "expected git_rebasin, rotation_fusion" in faults["left"]
    assert f"expected one of {', '.join(KINDS)}, got 3" in faults["right"]
    assert "unknown model 'other'" in faults["other"]


def test_a_model_that_cannot_be_aligned_is_named(zoo: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = save(llama(num_hidden_layers=2), tmp_path / "short")
    models = {"base": zoo / "base", "short": other}
    with pytest.raises(PreflightError, match=r"short: cannot be aligned: lacks 9 tensor\(s\)"):
        open_together(models, "base", {"short": "git_rebasin"})


def test_an_adapter_that_nothing_moves_is_merged_as_its_factors(zoo: Path) -> None:
    base = open_checkpoint(zoo / "base")
    folders = {"base": zoo / "base", "noise": noise_folder(Noise(2), base).path}
    found = open_together(folders, "base", {"noise": "git_rebasin"})["noise"]
    own = open_together(folders, "base")["noise"]
    factored = [name for name in base.tensors if update(own, name) is not None]
    assert factored
    assert [name for name in base.tensors if update(found, name) is not None] == factored
    assert not any(rearranged(found, name) for name in base.tensors)
    turned = open_together(folders, "base", {"noise": "rotation_fusion"})["noise"]
    whole = [name for name in factored if update(turned, name) is None]
    assert all(rearranged(turned, name) for name in whole)


def test_recipes_in_a_study_are_aligned_as_the_study_is(tmp_path: Path) -> None:
    recipe = Recipe("linear", (RecipeSource("a", {}), RecipeSource("b", {})))
    models = {"a": "org/a@v1", "b": "org/b@v1", "base": "org/base@v1"}
    path = tmp_path / "one.yaml"
    digest = "git_rebasin@" + "0" * 32
    path.write_text(recipe_text(recipe, models, align={"b": digest}))
    file = read_recipe(path)
    assert file.align == {"b": digest}
    study = {"base": "org/base@v1", "first": "org/a@v1", "second": "org/b@v1"}
    for same in ("git_rebasin", digest):
        assert [s.name for s in file.among(study, {"second": same}).sources] == ["first", "second"]
    for other, said in (
        ({}, "not aligned"),
        ({"second": "rotation_fusion"}, "as rotation_fusion"),
        ({"second": "git_rebasin@" + "1" * 32}, "as git_rebasin@1"),
    ):
        with pytest.raises(ConfigError, match=rf"'b' is aligned by .*{said}.*own `align`"):
            file.among(study, other)
