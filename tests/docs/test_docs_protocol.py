"""The protocol of docs/configuration.md: held-in scores are shares of experts', others held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from automerge import cli
from automerge.config import load_config
from tests.docs.test_docs import REPOSITORY, blocks

STUDY = "# protocol.yaml\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    [text] = [block for block in blocks("configuration.md", "yaml") if block.startswith(STUDY)]
    (tmp_path / "automerge").symlink_to(REPOSITORY / "automerge")
    (tmp_path / "protocol.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "protocol.yaml"


def test_the_study_has_one_goal_and_a_task_that_nothing_is_chosen_by(study: Path) -> None:
    config = load_config(study)
    (group,) = config.groups
    held_out = {task.name for task in config.tasks if task.held_out}
    assert config.n_goals == 1
    assert set(group.members) | held_out == {task.name for task in config.tasks}
    assert group.relative


@pytest.mark.slow
def test_held_in_scores_are_the_mean_of_the_shares_of_the_best_sources(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--budget", "9", "--items-per-candidate", "20", "--export", "none", "--out", "run"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["search", str(study), *options])
    assert ended.value.code == 0, capsys.readouterr().err
    members = json.loads((study.parent / "run" / "front.json").read_text())["members"]
    scores = {m["name"]: m["scores"] for m in members}
    tasks = ("demo_sorting", "demo_clock", "demo_median")
    sources = ("sorting", "clock", "median")
    experts = {t: max(sources, key=lambda s: scores[s][t]["select"]["value"]) for t in tasks}
    for own in scores.values():
        shares = [
            own[task]["test"]["value"] / scores[expert][task]["test"]["value"]
            for task, expert in experts.items()
        ]
        assert own["held-in"]["test"]["value"] == pytest.approx(sum(shares) / len(shares))
        assert own["demo_facts"]["test"]["n"] > 0
        assert own["demo_facts"]["select"] is None
