"""Compiled code that is loaded is what this user compiled for this processor."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from automerge.merging.backends import kept as module
from automerge.merging.backends.build import compiler, library, processor
from automerge.merging.backends.kept import find, keep, kept

pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler")

CPUINFO = """processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 85
model name	: Some Processor
cpu MHz		: {mhz}
flags		: fpu sse2 avx2{more}

processor	: 1
flags		: fpu
"""


def source(number: int) -> str:
    return f'extern "C" int number() {{ return {number}; }}\n'


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module.passing.cache_clear()
    return tmp_path / "automerge" / "kernels"


def compiled(number: int) -> int:
    made: int = library(source(number), compiler()).number()
    return made


def only(folder: Path) -> Path:
    (path,) = folder.glob("*.so")
    return path


def test_what_is_kept_is_found_and_is_for_this_user_alone(folder):
    assert compiled(1) == 1
    path = only(folder)
    before = path.stat().st_mtime_ns
    assert compiled(1) == 1
    assert only(folder).stat().st_mtime_ns == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("fault", ["cut short", "empty", "another's code", "a flipped byte"])
def test_a_file_that_does_not_hold_what_its_name_says_is_made_again(folder, caplog, fault):
    key = "0" * module.DIGITS
    folder.mkdir(parents=True, mode=0o700)
    for number in (1, 2):
        (folder / f"{number}").write_bytes(bytes([number]) * 100)
    path = keep(folder, key, folder / "1")
    content = path.read_bytes()
    damaged = {
        "cut short": content[:50],
        "empty": b"",
        "another's code": (folder / "2").read_bytes(),
        "a flipped byte": b"\x03" + content[1:],
    }[fault]
    assert find(folder, key) == path
    path.write_bytes(damaged)
    assert find(folder, key) is None
    assert not path.exists()
    assert "is made again" in caplog.text


def test_planted_code_is_not_loaded(folder):
    """Another's library where ours would be: under its name, or as a link to it."""
    assert compiled(3) == 3
    evil = only(folder).rename(folder / "evil")
    assert compiled(4) == 4
    wanted = only(folder)
    wanted.unlink()
    wanted.write_bytes(evil.read_bytes())
    assert compiled(4) == 4
    only(folder).unlink()
    wanted.symlink_to(evil)
    assert compiled(4) == 4
    assert not only(folder).is_symlink()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_nothing_is_loaded_from_or_kept_in_a_folder_that_others_can_write_to(folder, caplog, mode):
    assert compiled(5) == 5
    path = only(folder)
    folder.chmod(mode)
    for number in (5, 6):
        assert compiled(number) == number
    assert only(folder) == path
    assert not kept().is_relative_to(folder)
    assert caplog.text.count("chmod 700") == 1


def test_a_file_that_others_can_write_to_is_made_again(folder):
    assert compiled(7) == 7
    only(folder).chmod(0o666)
    assert compiled(7) == 7
    assert stat.S_IMODE(only(folder).stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="gives files to another user")
def test_what_belongs_to_another_user_is_not_loaded(folder):
    assert compiled(8) == 8
    os.chown(only(folder), 12345, -1)
    assert compiled(8) == 8
    assert only(folder).stat().st_uid == 0
    os.chown(folder, 12345, -1)
    assert not kept().is_relative_to(folder)


def test_processors_with_other_instructions_are_told_apart_and_those_of_a_kind_are_not(tmp_path):
    def seen(mhz: int, more: str) -> tuple[str, ...]:
        path = tmp_path / f"{mhz}{more}"
        path.write_text(CPUINFO.format(mhz=mhz, more=more))
        return processor(path)

    assert seen(2000, "") == seen(3000, "")
    assert seen(2000, "") != seen(2000, " avx512f")
    assert "avx2 fpu sse2" in seen(2000, "")
    assert processor(tmp_path / "none")


def test_code_compiled_for_another_processor_is_not_loaded(folder, monkeypatch):
    """A home that is shared: what one node kept is there, and another makes its own."""
    assert compiled(9) == 9
    first = only(folder)
    monkeypatch.setattr("automerge.merging.backends.build.processor", lambda: ("another",))
    assert compiled(9) == 9
    paths = set(folder.glob("*.so"))
    assert first in paths
    assert len(paths) == 2
