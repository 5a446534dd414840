"""Every command of the README runs, and every configuration in it and in docs/ is valid."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from automerge.config import load_config
from automerge.report.front import front_document
from automerge.report.summary import summarise
from experiments.readme_picture.draw import draw, rows
from tests.command_line import REPOSITORY, surroundings
from tests.forked import automerge, python
from tests.report.factory import study
from tests.zoo import write_zoo

SVG = "{http://www.w3.org/2000/svg}"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("automerge ")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return surroundings(HF_HOME=str(tmp_path_factory.mktemp("cache")))


def run_all(folder: Path, environment: dict[str, str], budgets: dict[str, str]) -> None:
    for _, *arguments in commands():
        shown = [budgets.get(word, word.replace("trial-20", budgets["name"])) for word in arguments]
        done = automerge(folder, *shown, environment=environment)
        assert done.returncode == 0, (shown, done.stderr)


@pytest.mark.slow
def test_the_commands_run_with_small_budgets(tmp_path: Path, environment: dict[str, str]) -> None:
    run_all(tmp_path, environment, {"40": "7", "60": "8", "20": "7", "name": "trial-7"})
    assert (tmp_path / "runs/demo/report.html").is_file()
    assert (tmp_path / "merged/model.safetensors").is_file()


def test_the_python_shown_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    with write_zoo(tmp_path).open("a") as config:
        config.write("executor: local\n")
    [program] = blocks(README, "python")
    ran = python(tmp_path, "-c", program, environment=environment)
    assert ran.returncode == 0, ran.stderr
    assert "'choose': 0." in ran.stdout


@pytest.mark.slow
def test_the_commands_run_as_they_are_written(tmp_path: Path, environment: dict[str, str]) -> None:
    run_all(tmp_path, environment, {"name": "trial-20"})


def test_make_knows_its_targets() -> None:
    targets = {
        line.split()[1]
        for b in blocks(README, "sh")
        for line in b.splitlines()
        if line.startswith("make ")
    }
    assert {"demo", "test"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (name, block)
        for name in ("README.md", "docs/configuration.md")
        for block in blocks((REPOSITORY / name).read_text(encoding="utf-8"), "yaml")
    ],
)
def test_configurations_shown_are_valid(file: str, text: str, tmp_path: Path) -> None:
    shown = yaml.safe_load(text)
    for folder in ("base", "maths", "code", "tasks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "automerge").symlink_to(REPOSITORY / "automerge")  # some are of the shipped demo
    path = tmp_path / "automerge.yaml"
    if "method" in shown:
        from automerge.config.recipe_file import read_recipe

        path.write_text(text)
        assert read_recipe(path).recipe.plain()["method"] == shown["method"], file
        return
    rest = {"base": "./base", "models": "{maths: ./maths}", "tasks": "[gsm8k]"}
    text += "".join(f"{key}: {value}\n" for key, value in rest.items() if key not in shown)
    path.write_text(text)
    assert load_config(path).models, file


def test_the_picture_is_of_the_budget_that_the_text_gives() -> None:
    (name,) = re.findall(r"!\[The front[^]]*\]\(([^)]+)\)", README)
    picture = ElementTree.parse(REPOSITORY / name).getroot()
    words = " ".join("".join(text.itertext()) for text in picture.iter(f"{SVG}text"))
    (budget,) = set(re.findall(r"`make demo` runs `automerge demo --budget (\d+)`", README))
    assert f"budget {budget}," in words


def test_the_picture_shows_every_tested_model() -> None:
    front = json.loads(json.dumps(front_document(summarise(study()))))
    picture = ElementTree.fromstring(draw(front))
    words = {"".join(text.itertext()) for text in picture.iter(f"{SVG}text")}
    shown = [row.name for row in rows(front)]
    assert len(shown) > 3
    for member in front["members"]:
        if member["name"] in shown and member["kind"] in ("front", "base"):
            assert member["name"] in words
