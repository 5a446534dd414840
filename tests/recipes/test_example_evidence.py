"""The recipes in docs/recipes/evidence: their commands gather what they name, on tiny models, and
with that the merge is the formula of the paper."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from automerge import cli
from automerge.config.recipe_file import read_recipe
from automerge.evidence.file import ENDING
from automerge.methods import METHODS, Knob, Method
from automerge.recipe import Recipe
from tests.checkpoints.models import WORDS, llama, perturb, save
from tests.evidence.test_evidence_methods import FORMULAS

FOLDER = Path(__file__).parents[2] / "docs/recipes/evidence"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
COMMAND = re.compile(r"^# +(automerge gather .*)$", re.MULTILINE)


def bayes_preview(base, sources, weights, knobs, kinds):
    """The mode of a product of Gaussians; where no task says anything, the weighted mean."""
    precisions = [w * h for w, h in zip(weights, kinds["squared_gradient"], strict=True)]
    total = sum(precisions)
    plain = np.average(sources, axis=0, weights=weights)
    moment = sum(p * x for p, x in zip(precisions, sources, strict=True))
    return np.where(total > 0, moment / np.where(total > 0, total, 1), plain)


PAPERS = {"bayes_preview": bayes_preview}
"""Formulas of recipes whose papers have other names for a method."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, fine-tunes and a text for each, called as the recipes call them."""
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("models"), llama()
    for seed, name in enumerate(("base", "maths", "code", "invents")):
        save(perturb(model, seed), folder / "org" / name)
        (folder / f"{name}.txt").write_text(" ".join(WORDS[3 + seed :: 2] * 3))
    return folder


def automerge(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line to its end, and return what it printed."""
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line)[1:])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def knob_values(recipe: Recipe, method: Method) -> dict[str, Any]:
    """Return the values of all knobs, those of sources as lists; defaults where it says nothing."""

    def value(given: Mapping[str, Any], knob: Knob) -> float:
        return given[knob.name].parts[0][1][0] if knob.name in given else float(knob.default)

    each = {k.name: [value(s.knobs, k) for s in recipe.sources] for k in method.source_knobs}
    return each | {k.name: value(recipe.knobs, k) for k in method.recipe_knobs}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", RECIPES)
def test_what_its_command_gathers_merges_to_the_formula_of_the_paper(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    written = RECIPES[name].read_text(encoding="utf-8").replace("\\\n# ", "")
    plain = yaml.safe_load(written)
    printed = [yaml.safe_load(automerge(line, capsys)) for line in COMMAND.findall(written)]
    gathered = {kind: one["evidence"][kind] for one in printed for kind in one["evidence"]}
    assert {k: set(v) for k, v in gathered.items()} == {
        k: set(v) for k, v in plain["evidence"].items()
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(plain | {"evidence": gathered}))
    automerge(f"automerge merge {name}.yaml --out {name}", capsys)

    recipe = read_recipe(folder / f"{name}.yaml").recipe
    method = METHODS[recipe.method]
    knobs = knob_values(recipe, method)
    weights = knobs.get("weight", [1.0] * len(recipe.sources))
    names = [source.name for source in recipe.sources]
    files = {
        kind: [
            load_file(folder / "cache/automerge/evidence" / f"{digests[n]}{ENDING}") for n in names
        ]
        for kind, digests in recipe.evidence.items()
    }
    models = [load_file(folder / "org" / n / "model.safetensors") for n in ("base", *names)]
    merged = load_file(folder / name / "model.safetensors")
    assert merged.keys() == models[0].keys()
    for tensor, value in merged.items():
        base, *sources = (model[tensor].double().numpy() for model in models)
        kinds = {
            kind: [file[tensor].double().numpy() for file in each if tensor in file]
            for kind, each in files.items()
        }
        expected = PAPERS.get(name, FORMULAS[method.name])(base, sources, weights, knobs, kinds)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6, err_msg=tensor)
