"""The licence of a card is read whatever else the card holds, and never by what it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import pytest
from huggingface_hub import ModelCard

from automerge.checkpoints.folder.card import licence_of
from automerge.store.result import ModelOrigin

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def card(folder, front):
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "front",
    [
        "license: apache-2.0",
        "tags: [a, b]\nlicense: 'mit'\nlicense_link: LICENSE",
        'more:\n- name: x\n  license: inner\nlicense: "llama3.1"',
    ],
)
def test_the_licence_is_the_one_that_the_hubs_client_reads(front, tmp_path):
    expected = ModelCard.load(card(tmp_path, front) / "README.md").data.license
    assert licence_of(tmp_path) == expected is not None


@pytest.mark.parametrize(
    "front",
    [
        f"{BOMB}license: mit",
        f"license: mit\n{BOMB}",
        "x: !!python/object/apply:os.abort []\nlicense: mit",
        "x: *nowhere\nlicense: mit",
        "license: mit\nx: {a: 1, a: 2}",
    ],
)
def test_bombs_and_tags_are_passed_over(front, tmp_path):
    card(tmp_path, front)
    tracemalloc.start()
    try:
        assert licence_of(tmp_path) == "mit"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "front", ["license: [", "license: {x: y}", "license: *a", "- license: mit", "\0", "license:"]
)
def test_what_names_no_licence_is_none(front, tmp_path):
    assert licence_of(card(tmp_path, front)) in (None, "")


def test_several_licences_are_one_text(tmp_path):
    assert licence_of(card(tmp_path, "license:\n- mit\n- apache-2.0")) == "mit, apache-2.0"


def test_no_card_a_pipe_and_a_link_out_are_no_licence(tmp_path):
    assert licence_of(tmp_path) is None
    os.mkfifo(tmp_path / "README.md")
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").unlink()
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "README.md").symlink_to(card(tmp_path, "license: mit") / "README.md")
    assert licence_of(inner) is None


def test_characters_that_turn_text_around_reach_nobody(tmp_path):
    front = 'license: "mit\u202e\x85\\x1b[31m\\n| evil |"'
    found = licence_of(card(tmp_path, front))
    assert found == "mit [31m | evil |"
    assert ModelOrigin("a", "org/a", license="mit\u202e\x1b[0m").license == "mit [0m"
    assert len(licence_of(card(tmp_path, "license: " + "x" * 10_000))) == 100


def test_a_card_is_read_without_the_hubs_client(tmp_path):
    card(tmp_path, "license: mit")
    code = (
        "import sys; from pathlib import Path; "
        "from automerge.checkpoints.folder.card import licence_of; "
        f"assert licence_of(Path({str(tmp_path)!r})) == 'mit'; "
        "assert 'transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
