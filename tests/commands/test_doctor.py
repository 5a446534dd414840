"""`automerge doctor` says what is missing, with an exit code, and shows no token."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from automerge.machine.processors import usable_cpus
from tests.command_line import REPOSITORY, automerge, surroundings

TOKEN = "hf_" + "x" * 34


def states(text: str) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(text)["checks"]}


def test_what_is_here_is_found_and_a_token_is_not_shown(tmp_path: Path) -> None:
    environment = surroundings(HF_TOKEN=TOKEN)
    ended = automerge(tmp_path, "doctor", "--json", environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["can_search"] is True
    found = states(ended.stdout)
    assert found["torch"]["found"] == torch.__version__
    assert found["ray"]["found"] == version("ray")
    assert found["processors"]["found"].startswith(f"{usable_cpus()} usable")
    assert found["hub"]["found"] == "offline, a token is set"
    assert found["hub"]["state"] == "without"
    assert all(check["advice"] for check in found.values() if check["state"] == "fault")
    assert not list(tmp_path.iterdir())


def test_what_a_search_can_do_without_is_no_fault(tmp_path: Path) -> None:
    """Without any program on the path there is no compiler, and merges are only slower."""
    environment = surroundings(PATH=str(tmp_path), HF_HOME=str(tmp_path / "hub"))
    for name in ("CXX", "HF_TOKEN", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    ended = automerge(tmp_path, "doctor", environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert "- compiler" in ended.stdout
    assert "hf auth login" in " ".join(ended.stdout.split())
    assert ended.stdout.splitlines()[-1].startswith("a search can run here")
    assert max(map(len, ended.stdout.splitlines())) < 80


def test_a_broken_installation_ends_with_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libc10.so: not found')")
    environment = surroundings(PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    ended = automerge(tmp_path, "doctor", environment=environment)
    shutil.rmtree(tmp_path / "torch")
    assert ended.returncode == 3, ended.stderr
    assert "! torch            libc10.so: not found" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "a search cannot run here: see torch"
    assert not ended.stderr
