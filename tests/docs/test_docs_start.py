"""The commands of docs/start.md run, one after another, on a tiny zoo."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from automerge import cli
from tests.zoo import write_zoo

PAGE = (Path(__file__).parents[2] / "docs" / "start.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zoo(tmp_path).unlink()
    monkeypatch.chdir(tmp_path)
    for line in "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)).splitlines():
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(line)[1:])
        assert ended.value.code == 0, (line, capsys.readouterr().err)
    assert "study    automerge: nothing was kept" in capsys.readouterr().out
