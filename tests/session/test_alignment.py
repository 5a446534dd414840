"""A study of sources that are not in their base's order: search, evidence, export, rebuild."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from automerge.checkpoints.symmetries.kept import ENDING
from automerge.checkpoints.symmetries.roles import anatomy
from automerge.objective import estimates
from automerge.store.store import Store
from automerge.trial import Measured
from tests import command_line
from tests.checkpoints.test_symmetries import planted
from tests.command_line import surroundings
from tests.evaluation.toys import WORDS
from tests.zoo import neighbour, save, write_zoo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo, with a source that is stored in another order."""
    folder = tmp_path_factory.mktemp("aligned")
    config = write_zoo(folder)
    model = neighbour(1)
    own = anatomy(
        model.config.to_dict(), {n: tuple(t.shape) for n, t in model.state_dict().items()}
    )
    change = planted(own, "git_rebasin", seed=5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(change.apply(tensor, own.axes[name], own.shapes))
    save(model, folder / "shuffled")
    text = config.read_text().replace("adapter: ./adapter}", "shuffled: ./shuffled}")
    text = text.replace("[linear, task_arithmetic, ties]", "[linear, regmean]")
    text += "align: {shuffled: git_rebasin}\n"
    text += "evidence: {text: ./plain.txt, tokens: 300, length: 20}\n"
    config.write_text(text)
    (folder / "plain.txt").write_text(" ".join(WORDS[i % len(WORDS)] for i in range(400)))
    return folder


def automerge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = surroundings(XDG_CACHE_HOME=str(folder / "cache"))
    return command_line.automerge(folder, *arguments, environment=environment)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    done = automerge(folder, "search")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "tiny"


def test_the_study_records_the_alignment_and_measures_the_aligned_source(
    folder: Path, run: Path
) -> None:
    with Store(run, write=False) as store:
        models = {model.name: model.align for model in store.study.current.models}
        outcomes = store.outcomes("search")
        trials = {trial.name: outcomes[trial.number] for trial in store.trials()}
        evidence = store.study.begun.inputs.evidence["input_gram"]
        objectives = store.study.begun.inputs.objectives
    kind, _, digest = models.pop("shuffled").partition("@")
    assert kind == "git_rebasin"
    assert (folder / f"cache/automerge/alignments/{digest}{ENDING}").is_file()
    assert set(models.values()) == {""}
    # `left` is what was shuffled.
    left, shuffled = (
        load_file(folder / f"cache/automerge/evidence/{evidence[name]}.evidence.safetensors")
        for name in ("left", "shuffled")
    )
    assert all(torch.equal(left[name], shuffled[name]) for name in left)
    own, same = trials["left"], trials["shuffled"]
    assert isinstance(own, Measured)
    assert isinstance(same, Measured)
    assert estimates(objectives, own.scores) == estimates(objectives, same.scores)


def test_an_export_is_rebuilt_from_its_recipe_bit_for_bit(folder: Path, run: Path) -> None:
    done = automerge(folder, "export", str(run), "--trial", "uniform")
    assert done.returncode == 0, done.stderr
    uniform = run / "models" / "uniform"
    assert (uniform / "recipe.yaml").read_text().count("git_rebasin@") == 1
    done = automerge(folder, "merge", str(uniform / "recipe.yaml"), "--out", "again")
    assert done.returncode == 0, done.stderr
    first, again = (load_file(d / "model.safetensors") for d in (uniform, folder / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    left, right = (load_file(folder / n / "model.safetensors") for n in ("left", "right"))
    for name, tensor in first.items():
        expected = (2 * left[name].double() + right[name].double()) / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


def test_evidence_gathered_by_hand_is_that_of_the_study(folder: Path, run: Path) -> None:
    with Store(run, write=False) as store:
        expected = store.study.begun.inputs.evidence["input_gram"]["shuffled"]
        align = {m.name: m.align for m in store.study.current.models}["shuffled"]
    limits = ("--tokens", "300", "--length", "20")
    arguments = ("base", "shuffled", "--text", "shuffled=plain.txt", *limits)
    done = automerge(folder, "gather", *arguments, "--align", "git_rebasin")
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    assert found["evidence"]["input_gram"] == {"shuffled": expected}
    assert found["align"] == {"shuffled": align}
    wrong = automerge(folder, "gather", *arguments, "--align", "other=git_rebasin")
    assert wrong.returncode == 2
    assert "there is no source 'other'" in wrong.stderr


def test_a_study_aligns_by_activations_on_its_text(folder: Path) -> None:
    text = (folder / "automerge.yaml").read_text()
    text = text.replace("name: tiny", "name: matched").replace("[linear, regmean]", "[linear]")
    text = text.replace("git_rebasin", "activation_matching").replace("budget: 9", "budget: 4")
    (folder / "matched.yaml").write_text(text)
    done = automerge(folder, "search", "matched.yaml")
    assert done.returncode == 0, done.stderr
    with Store(folder / "runs/matched", write=False) as store:
        align = {model.name: model.align for model in store.study.current.models}["shuffled"]
        outcomes = store.outcomes("search")
        trials = {trial.name: outcomes[trial.number] for trial in store.trials()}
        objectives = store.study.begun.inputs.objectives
    assert align.startswith("activation_matching@")
    own, same = trials["left"], trials["shuffled"]
    assert isinstance(own, Measured)
    assert isinstance(same, Measured)
    assert estimates(objectives, own.scores) == estimates(objectives, same.scores)
