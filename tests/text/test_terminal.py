"""Any terminal, pipe and locale: nothing ends a command, and nothing foreign is obeyed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from automerge.commands.search import write_reports
from automerge.errors import ConfigError
from automerge.files.atomic import write_atomically
from automerge.store.store import Store
from automerge.text.printable import inert
from automerge.text.redaction import without_secrets
from automerge.text.terminal import Plain, in_encoding
from automerge.trial import Failed, Job, Outcome
from tests.studies import toy_plan, toy_record, toy_study
from tests.toy import ToyWorker

HOSTILE = "\x1b]0;mine\x07 \x1b[2J \u202egnp.exe \u2066x \x9b31m \u200bz \ufeff \U000e0041 \r over"
TERMINALS = [
    {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"PYTHONIOENCODING": "cp1252:strict", "COLUMNS": "40"},
    {"NO_COLOR": "1", "COLUMNS": "40"},
    {"TERM": "dumb", "FORCE_COLOR": "1"},
]
SEARCH = """
import sys
from automerge import cli
from automerge.commands.progress import watching
from automerge.text.terminal import Plain, bear_any_encoding
from tests.toy import OBJECTIVES
from automerge.study import Snapshot
bear_any_encoding()
for terminal in (False, True):
    console = Plain(highlight=False, force_terminal=terminal)
    with watching(console, OBJECTIVES, "cpu") as observer:
        front = (("modèle-模型", (0.5, -0.25)),) * 10
        observer.note("keeps acc ≥ 0.5 − 0.1 …")
        last = "x ≥ 0.5 − hf_abcdefghijklmnopqrst"
        observer.update(Snapshot("search", 3, 9, 1, 2, 1, front, last))
sys.exit(0)
"""


def failing(job: Job) -> Outcome | None:
    if job.trial == 6:
        return Failed("error", f"≥ − 模型 {HOSTILE}", f"Traceback: {HOSTILE}")
    return None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_study(tmp_path_factory.mktemp("münchen") / "模型", 8, worker=ToyWorker(fail=failing))


def ended(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        env={**os.environ, **settings},
        check=False,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    assert b"UnicodeEncodeError" not in done.stdout + done.stderr
    return done


@pytest.mark.sample(1)
@pytest.mark.parametrize("settings", TERMINALS, ids=lambda s: " ".join(f"{k}={s[k]}" for k in s))
def test_any_terminal_gets_what_it_can_show(
    run: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    done = ended(settings, "-m", "automerge.cli", "status", str(run))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    script = tmp_path / "search.py"
    script.write_text(SEARCH, encoding="utf-8")
    shown = ended(settings, str(script))
    assert shown.returncode == 0, shown.stderr
    assert b"hf_abc" not in shown.stdout


def test_what_an_encoding_lacks_is_written_in_ascii() -> None:
    assert in_encoding("a ≥ b − 0.5 ± 1 … 模", "ascii") == "a >= b - 0.5 +- 1 ... ?"
    assert in_encoding("modèle ± ≥", "latin-1") == "modèle ± >="
    assert in_encoding("模 ≥", "utf-8") == "模 ≥"


def test_forty_columns_hold_every_name_and_score(run: Path) -> None:
    done = ended({"COLUMNS": "40"}, "-m", "automerge.cli", "status", str(run))
    text = done.stdout.decode()
    assert max(len(line) for line in text.splitlines()) <= 40
    front = json.loads(
        ended({}, "-m", "automerge.cli", "status", str(run), "--json").stdout.decode()
    )["front"]
    for member in front:
        assert member["name"] in text
        for value in member["scores"].values():
            assert f"{value:.3f}" in text


def obeyed(text: str) -> list[str]:
    """By Unicode's own categories: controls, formats but joiners, surrogates, separators."""
    return [
        c
        for c in text
        if c not in "\n\t\u200c\u200d\u00ad"
        and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and not "\u0600" <= c <= "\u08e2"
    ]


def test_nothing_that_is_obeyed_is_left() -> None:
    every = "".join(map(chr, (*range(0x3000), *range(0xD800, 0xE000), *range(0xE0000, 0xE0080))))
    left = {f"{ord(c):x}" for c in obeyed(inert(every + HOSTILE)) if c != "\u06dd"}
    assert not left, left
    assert json.loads(inert(json.dumps([HOSTILE], ensure_ascii=False))) == [HOSTILE]


def test_a_stranger_s_text_is_inert_on_the_terminal_and_in_every_file(run: Path) -> None:
    shown = ended({}, "-m", "automerge.cli", "status", str(run)).stdout.decode()
    assert "\\u202egnp.exe" in shown
    assert not obeyed(shown)
    write_reports(run)
    ended({}, "-m", "automerge.cli", "export-trials", str(run))
    for name in ("front.json", "report.html", "trials.csv"):
        text = (run / name).read_bytes().decode().replace("\r\n", "\n")
        assert not obeyed(text), name
    assert "<script>alert" not in (run / "report.html").read_text()


def test_a_console_obeys_styles_alone() -> None:
    file = io.StringIO()
    console = Plain(file=file, force_terminal=True, color_system="truecolor", width=200)
    console.print(f"[red]style[/] {HOSTILE}")
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "\x1b[31m" in file.getvalue()
    assert not obeyed(text)


def test_a_file_is_written_beside_links_and_never_through_them(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("front.json", f".front.json.{os.getpid()}"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "front.json", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "front.json").read_text() == "new"
    assert not (tmp_path / "front.json").is_symlink()


def test_secrets_of_a_configuration_are_not_stored(tmp_path: Path) -> None:
    config = {
        "name": "x", "budget": 3, "seed": 0, "models": {"a": "/models/a"},
        "ray_address": "ray://me:pass-word@head:10001",
        "system_instruction": "hf_abcdefghijklmnopqrst",
        "tasks": [{"gen_kwargs": {"api_key": "planted-1", "eos_token": "</s>"}}],
        "env": {"HF_TOKEN": "planted-3", "args": "token=planted-2"},
    }  # fmt: skip
    with Store(tmp_path, write=True) as store:
        record = toy_record(toy_plan(3))
        store.begin(replace(record, current=replace(record.current, config=config)))
        kept = store.study.current.config
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not re.search(rb"planted-\d|pass-word|hf_abc", content)
    assert kept["tasks"][0]["gen_kwargs"] == {"api_key": "***", "eos_token": "</s>"}
    assert kept["models"] == config["models"]
    assert without_secrets(kept) == kept


@pytest.mark.parametrize("name", ["../../x", "/abs/x", "a/b", ".hidden", "", "x" * 300, "a\nb"])
def test_a_name_that_is_a_path_is_refused_at_every_border(tmp_path: Path, name: str) -> None:
    from automerge.config.sections import NamedRecipe
    from automerge.config.settings import StudyConfig
    from automerge.store.schema import NAME, misfit

    assert misfit(NAME, json.dumps(name)) is not None
    with pytest.raises((ConfigError, ValueError)):
        StudyConfig._named_recipes(
            (NamedRecipe.model_construct(name=name, plain={}),),
            SimpleNamespace(data={}),  # type: ignore[arg-type]
        )
