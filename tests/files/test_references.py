"""Names of models: folders and hub ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from automerge.files.references import (
    is_local,
    join,
    resolve,
    short_name,
    split_name,
    split_revision,
)


def test_a_folder_becomes_an_absolute_path(tmp_path):
    (tmp_path / "sub" / "math").mkdir(parents=True)
    assert resolve("math", tmp_path / "sub") == str(tmp_path / "sub" / "math")
    assert resolve("../sub/./math/", tmp_path / "sub") == str(tmp_path / "sub" / "math")
    assert is_local(resolve("math", tmp_path / "sub"))


def test_a_folder_that_exists_wins_over_a_hub_id(tmp_path):
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("org/name", tmp_path) == str(tmp_path / "org" / "name")
    assert resolve("org/other", tmp_path) == "org/other"


@pytest.mark.parametrize("text", ["org/name", "org/name@main", "o.r-g/na_me@refs/pr/1", "a/b@v1.0"])
def test_hub_ids_are_left_alone(text, tmp_path):
    assert resolve(text, tmp_path) == text
    assert not is_local(text)


def test_a_revision_is_split_off_hub_ids_only(tmp_path):
    assert split_revision("org/name@refs/pr/1") == ("org/name", "refs/pr/1")
    assert split_revision("org/name") == ("org/name", None)
    assert split_revision("/models/a@b") == ("/models/a@b", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("./missing", "no such folder: "),
        ("~/missing-folder-of-mine", "no such folder: "),
        ("~nobody-of-that-name/x", "no such folder: "),
        ("/missing", "no such folder: /missing"),
        ("./here@main", "a local folder, which has no revision"),
        ("file", "is a file"),
        ("plain", "neither a folder that exists .* nor a hub id"),
        ("a/b/c", "neither a folder that exists .* nor a hub id"),
        ("", "got nothing"),
        ("a\0b", "got nothing"),
        ("x" * 5000, "neither"),
    ],
)
def test_what_is_neither_is_refused(text, message, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        resolve(text, tmp_path)


def test_the_end_of_a_reference_names_it():
    assert short_name("/models/my math (1)") == "my-math-1-"
    assert short_name("org/Name-7B@main") == "Name-7B"
    assert short_name("/models/_é_") == "model"


def test_paths_of_a_file_are_relative_to_its_folder():
    assert join(Path("/a/b"), "../c") == Path("/a/c")
    assert join(Path("/a/b"), "/c") == Path("/c")
    assert join(Path("/a"), "~") == Path.home()


def test_a_name_is_split_off_where_the_text_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert split_name("maths=./models/m=1", tmp_path) == ("maths", "./models/m=1")
    assert split_name("maths=org/name@main", tmp_path) == ("maths", "org/name@main")
    for alone in ("./models/a=b", "a=b", "org/name"):
        assert split_name(alone, tmp_path) == ("", alone)
    for wrong in ("my maths=x", "=x", "maths="):
        with pytest.raises(ValueError, match="expected NAME=PATH_OR_HUB_ID"):
            split_name(wrong, tmp_path)
