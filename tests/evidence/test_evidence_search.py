"""A search, an export and a merge with evidence, through the command line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from automerge.config import load_config
from automerge.errors import ConfigError, PreflightError
from automerge.evidence.file import open_evidence
from automerge.evidence.gather import read_text
from automerge.session import gathering
from automerge.session.gathering import GatherSettings, gather
from automerge.store.store import Store
from tests import forked
from tests.command_line import surroundings
from tests.evaluation.toys import WORDS
from tests.zoo import write_zoo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    config = write_zoo(folder)
    text = config.read_text().replace("[linear, task_arithmetic, ties]", "[regmean]")
    config.write_text(text + "evidence: {text: ./plain.txt, tokens: 300, length: 20}\n")
    (folder / "plain.txt").write_text(" ".join(WORDS[i % len(WORDS)] for i in range(400)))
    return folder


def automerge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose evidence is kept in the folder."""
    environment = surroundings(XDG_CACHE_HOME=str(folder / "cache"))
    return forked.automerge(folder, *arguments, environment=environment)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    done = automerge(folder, "search", "--export", "none")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "tiny"


def test_recipes_name_the_evidence_they_were_merged_with(folder: Path, run: Path) -> None:
    with Store(run, write=False) as store:
        evidence = store.study.begun.inputs.evidence
        recipes = [t.recipe for t in store.trials() if t.origin == "sampler"]
        assert all(store.outcomes("search").values())
    assert set(evidence["input_gram"]) == {"left", "right", "adapter"}
    files = {p.name.split(".")[0] for p in (folder / "cache/automerge/evidence").glob("*.saf*")}
    assert files == set(evidence["input_gram"].values())
    for recipe in recipes:
        names = {source.name for source in recipe.sources}
        expected = {n: d for n, d in evidence["input_gram"].items() if n in names}
        assert dict(recipe.evidence["input_gram"]) == expected


def test_every_source_may_have_a_text_of_its_own_in_several_passes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.txt").write_text("w1 w2 w3 w4 w5 w6")
    (tmp_path / "two.txt").write_text("w7 w8 w9")
    texts = {None: tmp_path / "one.txt", "right": tmp_path / "two.txt"}
    models = {"base": folder / "base", "left": folder / "left", "right": folder / "right"}

    def gathered(cache: str, kind: str) -> dict[str, str]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        found = gather(models, ("left", "right"), kind, texts, GatherSettings(100, 8, "cpu"))
        assert not list((tmp_path / cache).rglob("*.part"))
        return {name: file.digest for name, file in found.items()}

    whole = gathered("whole", "squared_gradient")
    assert len(set(whole.values())) == 2
    room = 4 * 72 * 32 + 4  # for about one tensor at a time
    monkeypatch.setattr(gathering, "room_for_sums", lambda _: room)
    assert gathered("parts", "squared_gradient") == whole
    origins = [
        open_evidence(path).origin for path in (tmp_path / "parts").rglob("*.evidence.safetensors")
    ]
    assert len({origin["text"] for origin in origins}) == 2
    of_base = gathered("parts", "base_gradient")
    assert len(set(of_base.values())) == 2  # the same weights, two texts


@pytest.mark.slow
def test_a_model_is_exported_and_merged_again_only_with_the_files_at_hand(
    folder: Path, run: Path
) -> None:
    with Store(run, write=False) as store:
        number = next(t.number for t in store.trials() if t.origin == "sampler")
    done = automerge(folder, "export", "runs/tiny", "--trial", str(number))
    assert done.returncode == 0, done.stderr
    model = run / "models" / f"trial-{number}"
    kept, away = folder / "cache/automerge/evidence", folder / "away"
    shutil.move(kept, away)
    try:
        refused = automerge(folder, "merge", str(model / "recipe.yaml"), "--out", "again")
        assert refused.returncode == 3
        assert "no evidence" in refused.stderr
        (model / "evidence").mkdir()
        for file in away.glob("*.safetensors"):
            shutil.copy(file, model / "evidence")
        done = automerge(folder, "merge", str(model / "recipe.yaml"), "--out", "again")
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(model / "evidence", ignore_errors=True)
        shutil.move(away, kept)
    first, second = (load_file(f / "model.safetensors") for f in (model, folder / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gather_prints_what_a_recipe_names_and_makes_nothing_twice(folder: Path, run: Path) -> None:
    arguments = ("gather", "./base", "left=./left", "adapter=./adapter", "--text", "plain.txt")
    done = automerge(folder, *arguments, "--tokens", "300", "--length", "20")
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)["evidence"]["input_gram"]
    with Store(run, write=False) as store:
        evidence = store.study.begun.inputs.evidence["input_gram"]
    assert {name: printed[name] for name in ("left", "adapter")} == {
        name: evidence[name] for name in ("left", "adapter")
    }
    with pytest.raises(PreflightError, match=r"nothing.txt: cannot be read as text"):
        read_text(folder / "nothing.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{left: plain.txt, rigth: plain.txt}", "no source 'rigth'; did you mean 'right'?"),
        ("{left: plain.txt, right: plain.txt}", "no text for adapter: name one per source"),
        ("{left: none.txt}", "no such file or folder"),
    ],
)
def test_a_text_per_source_is_checked_with_its_place(folder: Path, text: str, message: str) -> None:
    written = (folder / "automerge.yaml").read_text()
    (folder / "texts.yaml").write_text(written.replace("text: ./plain.txt", f"text: {text}"))
    with pytest.raises(ConfigError, match=r"texts\.yaml:\d+:\d+: ") as caught:
        load_config(folder / "texts.yaml")
    assert message in str(caught.value)


def test_gather_takes_a_text_per_model_and_refuses_a_model_it_does_not_know(folder: Path) -> None:
    arguments = ("gather", "./base", "left=./left", "--kind", "base_gradient", "--tokens", "50")
    done = automerge(folder, *arguments, "--text", "left=plain.txt")
    assert done.returncode == 0, done.stderr
    assert list(yaml.safe_load(done.stdout)["evidence"]["base_gradient"]) == ["left"]
    refused = automerge(folder, *arguments, "--text", "lift=plain.txt")
    assert refused.returncode == 2
    assert "there is no model 'lift'; did you mean 'left'?" in refused.stderr


def test_a_method_that_needs_evidence_without_text_is_refused_with_its_place(
    folder: Path,
) -> None:
    text = (folder / "automerge.yaml").read_text()
    (folder / "without.yaml").write_text(
        "".join(line for line in text.splitlines(True) if not line.startswith("evidence"))
    )
    with pytest.raises(ConfigError, match=r"without.yaml:6:20: regmean needs evidence: set `evid"):
        load_config(folder / "without.yaml")
