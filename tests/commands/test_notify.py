"""The user's command at the end of a search: what it is told, and what it cannot hurt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from automerge import cli
from automerge.commands import notify as module
from automerge.commands.notify import notify
from tests.zoo import write_zoo

SAY = 'echo "$AUTOMERGE_STATE|$AUTOMERGE_RUN|$AUTOMERGE_TAKE" >> '


def test_the_command_is_told_run_state_and_the_model_to_take(tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert notify(f"{SAY}'{told}'", tmp_path / "a b", "finished", "trial-3") is None
    assert told.read_text() == f"finished|{tmp_path / 'a b'}|trial-3\n"


def test_its_failure_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "failed with exit code 7" in (notify("exit 7", tmp_path, "stopped") or "")
    assert "could not be run" in (notify("a\0b", tmp_path, "stopped") or "")
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    assert "was stopped after" in (notify("exec sleep 60", tmp_path, "stopped") or "")


def test_a_search_runs_it_once_however_it_ends_and_keeps_it_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zoo(tmp_path)
    monkeypatch.chdir(tmp_path)
    told = tmp_path / "told"
    command = f"{SAY}'{told}'; exit 3"
    words = ["search", "--budget", "0", "--notify", command]
    for more, code in (([], 0), (["--seed", "99"], 2)):  # finished, then refused
        monkeypatch.setattr(sys, "argv", ["automerge", *words, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *more])
        assert ended.value.code == code
        assert "warning: the command of --notify failed with exit code 3" in capsys.readouterr().out
    run = tmp_path / "runs" / "tiny"
    assert told.read_text().splitlines() == [f"finished|{run}|", f"failed|{run}|"]
    files = [path for path in run.rglob("*") if path.is_file()]
    assert [path for path in files if b"AUTOMERGE_STATE" in path.read_bytes()] == []
