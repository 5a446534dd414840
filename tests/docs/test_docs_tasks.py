"""The task of docs/tasks.md that is made of a few examples, searched as the page says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from automerge import cli, demo
from tests.command_line import REPOSITORY

PAGE = (REPOSITORY / "docs/tasks.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The one block of a language in the section on one's own examples."""
    section = PAGE.split("## Your own examples")[1].split("\n## ")[0]
    [found] = re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)
    return str(found)


@pytest.mark.slow
def test_a_few_examples_are_a_task_that_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base").symlink_to(demo.folder() / "base")
    for name, source in zip(("one", "other"), demo.SOURCES.values(), strict=False):
        Path(name).symlink_to(source)
    Path("tasks").mkdir()
    text = block("yaml")
    Path(text.splitlines()[0].removeprefix("# ")).write_text(text)
    lines = (demo.folder() / "tasks/demo_clock.jsonl").read_text().splitlines()[:96]
    shown = json.loads(block("json")).keys()
    examples = ({key: json.loads(line)[key] for key in shown} for line in lines)
    Path("tasks/examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    command = block("text").replace("\\\n", " ").removeprefix("automerge ")
    more = "--budget 8 --executor local --export none --out run"
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(f"{command} {more}"))
    assert ended.value.code == 0
    members = json.loads(Path("run/front.json").read_text())["members"]
    scores = {m["name"]: m["scores"]["examples"]["test"]["value"] for m in members}
    assert {"base", "uniform", "one", "other"} <= scores.keys()
    assert 1 < scores["uniform"] < scores["base"]
