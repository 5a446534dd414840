"""The report of a GPU is whole whatever its parts do: it is tried on the processor."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from automerge.bench.gpu_report import (
    GRACE_S,
    TOTAL_S,
    Outcome,
    Part,
    _ended,
    main,
    measure,
    page,
    parts,
    run,
)

HOUR = 3600.0


def python(title: str, code: str, limit_s: float = 60) -> Part:
    return Part(title, (sys.executable, "-c", code), limit_s)


def test_what_fails_is_recorded_and_stops_nothing(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    chosen = [
        python("fails", "print('why it failed'); raise SystemExit(3)"),
        Part("is not there", ("/nowhere/command",), 5),
        python("works", "print('\\x1b[1mits figures\\x1b[0m')"),
    ]
    outcomes = measure(chosen, out)
    assert [outcome.status for outcome in outcomes] == [3, 127, 0]
    text = out.read_text()
    assert "| fails | **failed** (exit code 3) |" in text
    assert "| works | done |" in text
    assert "why it failed" in text
    assert "\nits figures\n" in text
    assert "still to come" not in text


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    outcome = run(python("hangs", "import time; time.sleep(600)", limit_s=0), left_s=60)
    assert outcome.status is None
    assert outcome.result.startswith("out of time")


def test_children_end_with_their_part() -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        (sys.executable, "-c", code), stdout=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    assert process.stdout is not None
    number = int(process.stdout.readline())
    assert _ended(process) == b""
    # It may still be waited for by whoever adopts it, but it runs no more.
    command = Path(f"/proc/{number}/cmdline")
    assert not command.exists() or command.read_bytes() == b""


def test_what_no_time_is_left_for_is_not_begun(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    outcomes = measure([python("late", "print(1)")], out, total_s=0.0)
    assert [(o.status, o.output) for o in outcomes] == [(None, "not begun")]
    assert "not begun" in out.read_text()


def test_a_page_says_what_is_still_to_come_and_cuts_long_output_at_its_beginning() -> None:
    text = page([("GPU 0", "made up")], [Outcome(python("a", ""), 0, 1.0, "first" + "x" * 9000)], 2)
    assert "2 parts are still to come" in text
    assert "| GPU 0 | made up |" in text
    assert "first" not in text


def test_all_that_only_a_gpu_can_show_is_part_of_it() -> None:
    titles = [part.title for part in parts("cuda", "7b", "1.5b")]
    assert titles[0] == "make test-gpu"
    assert "selftest" in titles
    assert [t for t in titles if t.startswith("bench")] == [
        "bench merge, 7b",
        "bench generate, 1.5b",
        "bench score, 7b",
        "bench slopes, 7b",
        "bench generate, 7b",
    ]
    for part in parts("cpu", "tiny", "tiny"):
        assert part.command[-2:] == ("--device", "cpu") or "bench" not in part.command


def test_make_runs_it_and_it_ends_within_eight_minutes() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "gpu-report: setup\n\t$(BIN)/python -m automerge.bench.gpu_report\n" in makefile
    assert TOTAL_S + GRACE_S < 8 * 60


@pytest.mark.slow
def test_every_part_runs_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the tests: without a GPU, none of them is to be run."""
    monkeypatch.chdir(Path(__file__).parents[2])
    out = tmp_path / "report.md"
    _, *others = parts("cpu", "tiny", "tiny", items=2)
    unlimited = [replace(part, limit_s=HOUR) for part in others]
    outcomes = measure(unlimited, out, HOUR)
    assert {outcome.part.title: outcome.status for outcome in outcomes} == dict.fromkeys(
        (part.title for part in others), 0
    ), out.read_text()
    text = out.read_text()
    for said in ("to copying the bytes", "ours/stock", "to forward", "ours/static"):
        assert said in text


def test_the_command_writes_the_file_and_fails_where_a_part_does(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    assert main(["--device", "cpu", "--seconds", "0", "--out", str(out)]) == 1
    assert out.read_text().count("not begun") == len(parts("cpu", "7b", "1.5b"))
