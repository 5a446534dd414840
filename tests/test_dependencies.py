"""What the package imports is what pyproject.toml declares, and nothing more."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
INSTALLED = packages_distributions()
LOADED_BY_OTHERS = {
    "sentencepiece": "transformers reads older tokenizers with it",
    "protobuf": "transformers reads older tokenizers with it",
}
OPTIONAL = {
    "cuda": "in automerge/merging/backends: PyTorch for CUDA brings it along",
    "pytest": "in automerge/testing, which tests of extensions import",
    "ray": "in automerge/executors/ray, which automerge/session/extras.py guards",
    "optuna": "in automerge/samplers/optuna.py and automerge/commands/dashboard.py",
    "optuna_dashboard": "in automerge/commands/dashboard.py",
    "mlflow": "in automerge/trackers",
    "trackio": "in automerge/trackers",
    "wandb": "in automerge/trackers",
    "pandas": "in automerge/report/study.py, which says so where it is not installed",
}

ELSEWHERE = {"vllm", "psutil"}
"""Imported in vLLM's own environment only, in automerge/evaluation/generation/vllm/serve.py."""


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", text)[0]) for text in requirements}


def imported(folder: Path) -> Iterator[tuple[str, str]]:
    """Top-level modules that are imported anywhere below a folder, with the file."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for name in names:
                top = name.partition(".")[0]
                if top not in (*sys.stdlib_module_names, "automerge"):
                    yield top, str(path.relative_to(REPOSITORY))


def distributions(module: str) -> set[str]:
    return {normal(name) for name in INSTALLED.get(module, [module])}


def test_what_is_imported_is_declared():
    runtime = declared(PROJECT["dependencies"])
    missing = {
        (module, file)
        for module, file in imported(REPOSITORY / "automerge")
        if module not in {*OPTIONAL, *ELSEWHERE} and not distributions(module) & runtime
    }
    assert not missing


def test_what_is_declared_is_imported():
    used = {d for module, _ in imported(REPOSITORY / "automerge") for d in distributions(module)}
    idle = declared(PROJECT["dependencies"]) - used - {normal(name) for name in LOADED_BY_OTHERS}
    assert not idle


def test_optional_modules_are_imported_where_they_are_said_to_be_and_belong_to_an_extra():
    files = {module: set[str]() for module in OPTIONAL}
    for module, file in imported(REPOSITORY / "automerge"):
        files.get(module, set()).add(file)
    extras = declared([r for extra in PROJECT["optional-dependencies"].values() for r in extra])
    for module, reason in OPTIONAL.items():
        where = tuple(re.findall(r"automerge/[\w/.]*\w", reason))
        assert files[module], module
        assert all(file.startswith(where) for file in files[module]), files[module]
        assert distributions(module) & extras, module
