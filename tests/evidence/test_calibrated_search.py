"""A search whose merges are calibrated: its export, and the recipe merged again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from automerge.config import load_config
from automerge.config.recipe_file import read_recipe
from automerge.errors import ConfigError
from automerge.store.store import Store
from automerge.trial import Measured
from tests import forked
from tests.command_line import surroundings
from tests.evaluation.toys import WORDS
from tests.zoo import write_zoo

EVIDENCE = "evidence: {text: ./plain.txt, tokens: 300, length: 20}\n"


def automerge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = surroundings(XDG_CACHE_HOME=str(folder / "cache"))
    return forked.automerge(folder, *arguments, environment=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    config = write_zoo(folder)
    text = config.read_text().replace("depth: {knots: 2}", "depth: {knots: 2}, calibrate: repair")
    config.write_text(text.replace("budget: 9", "budget: 14") + EVIDENCE)
    (folder / "plain.txt").write_text(" ".join(WORDS[i % len(WORDS)] for i in range(400)))
    return folder


@pytest.mark.slow
def test_a_dry_run_says_what_calibration_takes(folder: Path) -> None:
    done = automerge(folder, "search", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d GB for the pass that calibrates a merge\n", done.stdout), done.stdout


@pytest.mark.slow
def test_calibrated_merges_are_scored_exported_and_merged_again_to_the_same_bits(
    folder: Path,
) -> None:
    done = automerge(folder, "search", "--export", "none")
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "tiny"
    with Store(run, write=False) as store:
        outcomes = store.outcomes("search")
        proposed = [t for t in store.trials() if t.origin == "sampler"]
    assert all(isinstance(outcomes[t.number], Measured) for t in proposed if t.number in outcomes)
    strengths = {t.number: t.recipe.repair for t in proposed}
    assert any(strengths.values())
    assert not all(strengths.values())
    number = next(n for n, strength in strengths.items() if strength)
    done = automerge(folder, "export", "runs/tiny", "--trial", str(number))
    assert done.returncode == 0, done.stderr
    model = run / "models" / f"trial-{number}"
    recipe = yaml.safe_load((model / "recipe.yaml").read_text())
    assert recipe["calibrate"] == {"repair": strengths[number]}
    assert "mergekit does not calibrate" in (model / "mergekit.yaml").read_text()
    done = automerge(folder, "merge", str(model / "recipe.yaml"), "--out", "again")
    assert done.returncode == 0, done.stderr
    first, second = (load_file(f / "model.safetensors") for f in (model, folder / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    del recipe["calibrate"]
    (model / "plain.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = automerge(folder, "merge", str(model / "plain.yaml"), "--out", "plain")
    assert done.returncode == 0, done.stderr
    plain = load_file(folder / "plain" / "model.safetensors")
    changed = {name for name in first if not torch.equal(first[name], plain[name])}
    assert changed
    assert changed <= {name for name in first if name.endswith("proj.weight")}


@pytest.mark.slow
def test_gather_prints_what_a_calibrated_recipe_names(folder: Path) -> None:
    arguments = ("gather", "./base", "left=./left", "right=./right", "--kind", "activations")
    done = automerge(folder, *arguments, "--text", "plain.txt", "--tokens", "300")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)["evidence"]["activations"]
    text = (
        "method: linear\nmodels: {left: ./left, right: ./right}\n"
        "sources: {left: {weight: 1}, right: {weight: 1}}\ncalibrate: repair\n"
    ) + yaml.safe_dump({"evidence": {"activations": {n: found[n] for n in ("left", "right")}}})
    (folder / "recipe.yaml").write_text(text)
    done = automerge(folder, "merge", "recipe.yaml", "--out", "by_hand")
    assert done.returncode == 0, done.stderr


def test_a_study_without_one_text_for_all_is_refused_with_its_place(folder: Path) -> None:
    written = (folder / "automerge.yaml").read_text()
    each = "{left: plain.txt, right: plain.txt, adapter: plain.txt}"
    for changed in (
        written.replace(EVIDENCE, ""),
        written.replace("text: ./plain.txt", f"text: {each}"),
    ):
        (folder / "without.yaml").write_text(changed)
        with pytest.raises(ConfigError, match=r"without.yaml:6:\d+: calibration needs one text"):
            load_config(folder / "without.yaml")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (("adapter: ./adapter", "adapter: 'noise:rank=2'"), "merges with noise"),
        (("batch_size: 16", "batch_size: 16, dtype: float16"), "remove evaluation.dtype"),
    ],
)
def test_a_study_that_cannot_be_calibrated_is_refused(
    folder: Path, changed: tuple[str, str], problem: str
) -> None:
    (folder / "other.yaml").write_text((folder / "automerge.yaml").read_text().replace(*changed))
    with pytest.raises(ConfigError, match=problem):
        load_config(folder / "other.yaml")


@pytest.mark.parametrize(
    ("written", "strength"), [("repair", 1.0), ("{repair: 0.25}", 0.25), ("{repair: 0}", 0.0)]
)
def test_a_recipe_file_says_how_much(tmp_path: Path, written: str, strength: float) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "method: linear\nmodels: {a: org/a}\nsources: {a: {}}\n"
        f"calibrate: {written}\nevidence: {{activations: {{a: {'0' * 32!r}}}}}\n"
    )
    assert read_recipe(tmp_path / "recipe.yaml").recipe.repair == strength


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (
            "repare",
            "expected repair, or {repair: STRENGTH} with a number from 0 to 1; got 'repare'",
        ),
        ("{repair: 2}", "repair must lie in [0, 1]; got 2"),
        ("repair", "repair needs evidence of the kind activations from a"),
    ],
)
def test_a_recipe_file_that_cannot_be_calibrated_says_where(
    tmp_path: Path, written: str, problem: str
) -> None:
    path = tmp_path / "recipe.yaml"
    evidence = "" if written == "repair" else f"evidence: {{activations: {{a: {'0' * 32!r}}}}}\n"
    path.write_text(
        f"method: linear\nmodels: {{a: org/a}}\nsources: {{a: {{}}}}\ncalibrate: {written}\n"
        + evidence
    )
    with pytest.raises(ConfigError, match=r"recipe.yaml:4:") as caught:
        read_recipe(path)
    assert problem in str(caught.value)
