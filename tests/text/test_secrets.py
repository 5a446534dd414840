"""A planted token reaches no message, traceback, log line or file."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from automerge import cli
from automerge.commands.search import write_reports
from automerge.errors import ConfigError
from automerge.text.redaction import redact
from automerge.trial import Failed, Job, Outcome
from tests.studies import toy_study
from tests.toy import ToyWorker

TOKEN = "hf_PlantedPlantedPlantedPlanted"
OWN = "planted-value-of-the-environment"


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "api_org_" + "a1" * 10,
        "sk-ant-api03-" + "x" * 30,
        "ghp_" + "A1" * 18,
        "github_pat_" + "A1b2" * 10,
        "AKIA" + "ABCD" * 4,
    ],
)
@pytest.mark.parametrize("around", ["{}", "token={}&x=1", "'{}'", "Bearer {}", "https://h/{}/x"])
def test_tokens_of_known_shapes_are_hidden(secret: str, around: str) -> None:
    assert secret not in redact(around.format(secret), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@hub/x", "https://***@hub/x"),
        ("postgres://:pw@db", "postgres://***@db"),
        ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz", "Authorization: Bearer ***"),
        ("http://127.0.0.1:8265/x@y", "http://127.0.0.1:8265/x@y"),
        ("user@host:22 12:30 a:b@c", "user@host:22 12:30 a:b@c"),
        ("the base is hf_model and sk-learn", "the base is hf_model and sk-learn"),
    ],
)
def test_credentials_in_addresses_are_hidden_and_nothing_else(text: str, expected: str) -> None:
    assert redact(text, {}) == expected


def test_secrets_of_the_environment_are_known_by_their_names() -> None:
    environment = {
        "MY_SERVICE_TOKEN": "longer-than-short",
        "DB_PASSWORD": "longer-than-short-too",
        "HOME": "/home/somebody",
        "SHORT_TOKEN": "true",
    }
    text = "longer-than-short longer-than-short-too /home/somebody true"
    assert redact(text, environment) == "*** *** /home/somebody true"


def bug() -> None:
    raise RuntimeError(f"401 for {TOKEN} and {OWN}")


def fault() -> None:
    raise ConfigError(f"cannot read https://me:{OWN}@hub/{TOKEN}")


@pytest.mark.parametrize(("command", "code"), [(bug, 1), (fault, 2)])
def test_messages_and_tracebacks_of_the_command_line(
    command: object,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOME_API_KEY", OWN)
    assert callable(command)
    assert cli.entry.guarded(command) == code
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err
    assert OWN not in shown.out + shown.err
    assert "***" in shown.err


def full_disk() -> None:
    raise OSError(28, "No space left on device")


def full_disk_in_a_copy() -> None:
    raise shutil.Error([("a", "b", "[Errno 27] File too large: 'a' -> 'b'")])


def full_disk_as_a_cause() -> None:
    try:
        full_disk()
    except OSError as error:
        raise RuntimeError("cannot prepare the data set") from error


@pytest.mark.parametrize("command", [full_disk, full_disk_in_a_copy, full_disk_as_a_cause])
def test_a_full_disk_anywhere_is_said_without_a_traceback(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    assert cli.entry.guarded(command) == 5
    shown = capsys.readouterr().err
    assert "the disk is full" in shown
    assert "Traceback" not in shown


def test_no_file_of_a_study_holds_a_token_that_a_worker_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", OWN)

    def leaks(job: Job) -> Outcome | None:
        if job.trial == 6:
            return Failed("error", f"401 for {TOKEN}", f"headers: {{'token': '{OWN}'}}\n{TOKEN}")
        return None

    run = toy_study(tmp_path / "run", worker=ToyWorker(fail=leaks))
    write_reports(run)
    for arguments in (
        ("export-trials", "--format", "csv"),
        ("export-trials", "--format", "jsonl"),
        ("export-trials", "--format", "parquet"),
        ("dashboard", "--no-serve"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([arguments[0], str(run), *arguments[1:]])
        assert ended.value.code == 0
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) >= 7
    for path in files:
        content = path.read_bytes()
        assert TOKEN.encode() not in content, path
        assert OWN.encode() not in content, path


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "settings",
    [
        {"NO_COLOR": "1", "COLUMNS": "40"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        {"TERM": "dumb"},
    ],
)
def test_any_terminal_gets_plain_output_and_no_crash(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    import os

    run = toy_study(tmp_path / "münchen 模型", 8)
    done = subprocess.run(
        [sys.executable, "-m", "automerge.cli", "status", str(run)],
        capture_output=True,
        env={**os.environ, **settings},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    assert b"\x1b[" not in done.stdout
    assert io.BytesIO(done.stdout).readline()
