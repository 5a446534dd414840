"""What a user can get wrong: one clear message and the right exit code; nothing made or lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.main import get_command

from automerge import cli
from automerge.evidence import KINDS
from automerge.samplers import SAMPLERS
from tests.zoo import save, write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


@pytest.fixture
def own(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the zoo to spoil, and the working directory."""
    folder = tmp_path / "own"
    shutil.copytree(zoo, folder)
    monkeypatch.chdir(folder)
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert isinstance(ended.value.code, int)
    return ended.value.code, error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["search", "--bugdet", "3"], 2, "--budget"),
        (["serach"], 2, "serach"),
        (["search", "nothing.yaml"], 2, "nothing.yaml"),
        (["search", "--budget", "many"], 2, "--budget: expected a whole number"),
        (["search", "--budget", "-1"], 2, "--budget: expected a whole number from 0"),
        (["search", "--sampler", "cmae"], 2, "did you mean 'cma'"),
        (["search", "--base", "./bas"], 2, "no such folder"),
        (["search", "--task", "choose:acuracy", "--include-path", "tasks"], 3, "(it has acc)"),
        (["search", "--device", "cuda"], 3, "no GPU"),
        (["search", "--device", "mps"], 2, "use cpu, which auto takes on a Mac"),
        (["bench", "merge", "--device", "mps"], 2, "Apple's GPUs (mps)"),
        (["status", "runs/none"], 5, "contains no study"),
        (["export", "runs/none"], 5, "contains no study"),
        (["report", "runs/none"], 5, "contains no study"),
        (["merge", "no.yaml", "--out", "x"], 2, "no.yaml"),
        (["merge", "automerge.yaml", "--out", "x"], 2, "automerge.yaml"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(
    own: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    before = sorted(own.rglob("*"))
    found = fails(capsys, *arguments)
    assert found[0] == code
    assert said in found[1]
    assert sorted(own.rglob("*")) == before


def truncate(own: Path) -> None:
    file = own / "left" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def replace_by_html(own: Path) -> None:
    (own / "left" / "model.safetensors").write_text("<html>not found</html>")


def remove_model(own: Path) -> None:
    shutil.rmtree(own / "left")


def another_vocabulary(own: Path) -> None:
    file = own / "left" / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"w3":', '"other":', 1))


def another_architecture(own: Path) -> None:
    deeper = {**json.loads((own / "left" / "config.json").read_text()), "num_hidden_layers": 3}
    save(LlamaForCausalLM(LlamaConfig(**deeper)), own / "left")


def wrong_configurations(own: Path) -> None:
    for name in ("base", "left", "right"):
        file = own / name / "config.json"
        file.write_text(re.sub(r'"hidden_size": \d+', '"hidden_size": "wide"', file.read_text()))


def remote_code(own: Path) -> None:
    """A model of a kind that transformers lacks, so that its own code would be needed."""
    file = own / "left" / "config.json"
    config = json.loads(file.read_text())
    named = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    file.write_text(json.dumps({**config, **named, "architectures": ["Model"]}))
    (own / "left" / "own.py").write_text(f"open({str(own / 'ran')!r}, 'w')\n")


def task_code(own: Path) -> None:
    file = own / "tasks" / "choose.yaml"
    (own / "tasks" / "code.py").write_text(f"open({str(own / 'ran')!r}, 'w')\ndef f(x): return x\n")
    file.write_text(file.read_text() + "process_docs: !function code.f\n")


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (truncate, 3, "model.safetensors"),
        (replace_by_html, 3, "model.safetensors"),
        (remove_model, 2, "automerge.yaml:3:16: no such folder"),
        (another_vocabulary, 3, "left, compared with base"),
        (another_architecture, 3, "num_hidden_layers: 3 in left, 2 in base"),
        (wrong_configurations, 3, "expected int, got str (value: 'wide')"),
        (remote_code, 3, "'auto_map' asks to run code"),
        (task_code, 3, "would run code"),
    ],
)
def test_spoilt_inputs_are_named_before_anything_is_made(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    code: int,
    said: str,
) -> None:
    spoil(own)
    found = fails(capsys, "search", "automerge.yaml")
    assert found[0] == code
    assert said in found[1]
    assert not (own / "runs").exists()
    assert not (own / "ran").exists()


def test_all_faults_of_models_and_tasks_come_at_once(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(own)
    config = own / "automerge.yaml"
    config.write_text(config.read_text().replace("[choose,", "[chooze,"))
    (own / "tasks" / "torn.yaml").write_text("task: [")
    _, error = fails(capsys, "search", "automerge.yaml")
    assert "automerge.yaml:3:16:" in error
    assert "automerge.yaml:4:9:" in error
    assert f"no task 'chooze' in lm-eval or in {own / 'tasks'}; did you mean 'choose'?; " in error
    assert "torn.yaml cannot be read" in error


def test_a_folder_with_something_else_in_it_is_left_alone(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "letters").mkdir()
    (own / "letters" / "dear.txt").write_text("Dear")
    code, error = fails(capsys, "search", "automerge.yaml", "--out", "letters")
    assert code == 2
    assert "letters is not empty and contains no study" in error
    code, error = fails(capsys, "search", "automerge.yaml", "--out", "automerge.yaml")
    assert code == 2
    assert "is a file" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "locked").mkdir(mode=0o500)
    code, error = fails(capsys, "search", "automerge.yaml", "--out", "locked/run")
    assert code == 3
    assert "cannot write" in error


def test_a_budget_of_nothing_gives_a_valid_report(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["search", "automerge.yaml", "--budget", "0"])
    assert ended.value.code == 0
    assert "budget was 0" in capsys.readouterr().out
    assert (own / "runs" / "tiny" / "report.html").is_file()


def test_help_is_quick_and_a_closed_pipe_is_quiet() -> None:
    for arguments in ("--help", "search --help"):
        command = f"{sys.executable} -m automerge.cli {arguments} | head -1"
        shell = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert done.stderr == ""


def test_version_is_a_command_and_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for argument in ("version", "--version"):
        with pytest.raises(SystemExit) as ended:
            cli.main([argument])
        assert not ended.value.code
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == f"automerge {installed('automerge-llm')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    name = "_AUTOMERGE_COMPLETE"
    words = {"COMP_WORDS": "automerge sea", "COMP_CWORD": "1"}
    zsh_and_fish = {
        "_TYPER_COMPLETE_ARGS": "automerge sea",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    script = "import sys; sys.argv = ['automerge']; from automerge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **words, **zsh_and_fish, name: f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "search" in done.stdout
    assert "export" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("files", "arguments", "said"),
    [
        (["mine.yml"], [], "name one of the files here (mine.yml)"),
        (["a.yaml", "b.yaml", "c.yml", "d.yml"], [], "(a.yaml, b.yaml, c.yml and 1 more)"),
        (["mine.yml"], ["--budget", "3"], "mine.yml"),
        (["mine.yml"], ["--task", "x"], "to go with --task"),
        ([], ["--model", "a=b", "--task", "x"], "to go with --model, --task"),
        ([], ["--include-path", "tasks"], "to go with --include-path"),
        ([], ["--constraint", "x >= 1", "--dry-run"], "to go with --constraint"),
    ],
)
def test_the_demo_is_not_searched_where_another_study_was_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files:
        Path(name).touch()
    code, error = fails(capsys, "search", *arguments)
    assert code == 2
    assert said in error
    assert "automerge demo" in error
    assert sorted(file.name for file in tmp_path.iterdir()) == files


@pytest.mark.parametrize("files", [[], [".pre-commit-config.yaml"], ["notes.txt"]])
def test_without_any_study_here_the_demo_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files:
        Path(name).touch()
    for command in ("search", "demo"):
        code, error = fails(capsys, command, "--budget", "many")
        assert (code, "--budget: expected a whole number" in error) == (2, True)


def test_the_help_of_sampler_names_every_sampler() -> None:
    (text,) = (
        option.help
        for option in get_command(cli.app).commands["search"].params
        if option.name == "sampler"
    )
    assert set(re.findall(r"\w+", text)) - {"or", "Default"} == set(SAMPLERS)


def test_the_help_of_kind_names_every_kind_of_evidence() -> None:
    (text,) = (
        option.help
        for option in get_command(cli.app).commands["gather"].params
        if option.name == "kind"
    )
    (listed,) = re.findall(r"What to gather: (.*);", text)
    assert set(re.findall(r"\w+", listed)) - {"or"} == set(KINDS)
