"""The files that a code host reads agree with the package and with each other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]


def test_the_workflow_runs_what_ci_runs_with_the_oldest_python() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    [python] = [s["with"]["python-version"] for s in steps if "setup-python" in s.get("uses", "")]
    assert PROJECT["requires-python"] == f">={python}"


def test_hooks_run_the_tools_that_make_lint_runs() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"].split()[0] for repo in hooks["repos"] for hook in repo["hooks"]]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0].splitlines()[1:]
    assert entries == [line.split()[0].replace("$(BIN)", ".venv/bin") for line in lint]


def test_issue_forms_have_what_a_form_needs() -> None:
    forms = [
        yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in (REPOSITORY / ".github/ISSUE_TEMPLATE").iterdir()
        if file.name != "config.yml"
    ]
    assert forms
    for form in forms:
        assert form["name"]
        assert form["description"]
        assert all(field["attributes"]["label"] for field in form["body"])
