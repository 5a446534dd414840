"""`automerge selftest` runs here, and says so where something is not as it should be."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from automerge import cli
from automerge.commands.selftest import Child, DemoStudy, Row, print_rows


@pytest.mark.slow
def test_this_machine_passes_under_faults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["selftest", "--chaos", "--times", "1"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0, shown
    assert shown.count("passed") == 7
    assert "FAILED" not in shown


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        (Row("x", 3, 3), True),
        (Row("x", 3, 2), False),
        (Row("x", 3, 3, lost=1), False),
        (Row("x", 3, 3, repeated=1), False),
    ],
)
def test_a_row_passes_only_whole(row: Row, passed: bool) -> None:
    assert row.passed is passed
    text = io.StringIO()
    print_rows([row], Console(file=text, width=100))
    assert "x" in text.getvalue()


def test_acknowledged_measurements_are_read_from_what_a_search_says() -> None:
    import subprocess
    import sys

    said = (
        "study     selftest\nsearching 1/8  base  demo_sorting 0.100\nnote: x\n"
        "searching 2/8  trial-7 failed (invalid): NaN\ntesting 1/3  uniform  demo_clock 0.2\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"print({said!r}, end='')"], stdout=subprocess.PIPE, text=True
    )
    child = Child(process)
    assert child.follow() == 0
    assert child.done == [("search", "base"), ("search", "trial-7"), ("test", "uniform")]
    assert process.stdout is not None
    process.stdout.close()


def test_a_demo_study_is_a_valid_configuration(tmp_path: Path) -> None:
    from automerge.config import load_config

    DemoStudy(tmp_path)
    config = load_config(tmp_path / "selftest.yaml")
    assert config.budget == 8
