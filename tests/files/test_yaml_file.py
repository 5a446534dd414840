"""The YAML loader: positions, what text means, and hostile input."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.errors import ConfigError, Location
from automerge.files.yaml_file import MAX_BYTES, dump_yaml, load_yaml, parse_yaml, resolve_scalar


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    return [str(fault) for fault in caught.value.faults]


def test_every_key_and_value_knows_where_it_was_written():
    document = parse_yaml("a: 1\nmodels:\n  math: x\n  list: [1, {k: é, z: 2}]\n", "f.yaml")
    assert document.data == {"a": 1, "models": {"math": "x", "list": [1, {"k": "é", "z": 2}]}}
    assert document.locate(()) == Location("f.yaml", 1, 1)
    assert document.locate(("models", "math")) == Location("f.yaml", 3, 9)
    assert document.locate(("models", "math"), key=True) == Location("f.yaml", 3, 3)
    assert document.locate(("models", "list", 1, "z")) == Location("f.yaml", 4, 23)
    assert document.locate(("models", "list", 1, "z"), key=True) == Location("f.yaml", 4, 20)


def test_what_does_not_exist_is_located_at_its_parent():
    document = parse_yaml("a:\n  b: [1]\n", "f.yaml")
    assert document.locate(("a", "x", "y")) == Location("f.yaml", 1, 1)
    assert document.locate(("a", "b", 7)) == Location("f.yaml", 2, 6)
    assert document.locate(("a", "b", 0, "c")) == Location("f.yaml", 2, 7)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E+2", 150.0),
        (".5", 0.5),
        ("-3", -3),
        ("007", 7),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("null", None),
        *((text, text) for text in ("no", "on", "yes", "off", "n", "1_000", "1:30", "2001-01-01")),
        *((text, text) for text in ("0x10", "0o7", "1e", "e3", "NaN", "inf", "--3", "tRue")),
    ],
)
def test_unquoted_text_means_what_yaml_1_2_says(text, value):
    got = parse_yaml(f"a: {text}", "f").data["a"]
    assert got == value
    assert type(got) is type(value)


def test_quoted_text_stays_text():
    assert parse_yaml("a: 'true'\nb: \"1\"\nc: |\n  2\n", "f").data == {
        "a": "true",
        "b": "1",
        "c": "2\n",
    }


def test_keys_are_always_text():
    assert parse_yaml("no: 1\n1: 2\nnull: 3\ntrue: 4", "f").data == {
        "no": 1,
        "1": 2,
        "null": 3,
        "true": 4,
    }


def test_aliases_repeat_a_value_and_keep_its_place():
    document = parse_yaml("a: &x {b: 1}\nc: *x\n", "f")
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}}
    document.data["a"]["b"] = 2
    assert document.data["a"] == {"b": 1}
    assert document.locate(("c", "b")) == Location("f", 1, 11)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: duplicate key 'a', first given on line 1; keep one"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: tags such as "),
        ("a: !x 1", "f.yaml:1:4: tags such as '!x' are not allowed; write plain values"),
        ("a: &a [*a]", "f.yaml:1:8: alias *a refers to itself"),
        ("a: *b", "f.yaml:1:4: alias *b is not defined"),
        ("a: &a {b: 1}\nc: {<<: *a}", "f.yaml:2:5: merge keys (<<) are not supported"),
        ("? [a]\n: 1", "f.yaml:1:3: a key must be plain text"),
        ("a: .inf", "f.yaml:1:4: .inf is not a finite number"),
        ("a: -.NaN", None),
        ("a: 1e999", "f.yaml:1:4: the number 1e999 is too large"),
        ("a: " + "9" * 5000, "f.yaml:1:4: the number 9999999999999999999999999999999999999..."),
        ("a:\n\t- b", "f.yaml:2:1: a tab; indent YAML with spaces"),
        ("a: [1, 2\nb: 3", "f.yaml:2:2: not YAML: "),
        ("a: b: c", "f.yaml:1:5: not YAML: "),
        ("\ufeffa: 1", "f.yaml:1:1: the file begins with a byte order mark"),
        ("a: \x07", "f.yaml:1:4: character '\\x07' is not allowed in YAML"),
        ("a: \ud800", "f.yaml:1:4: character "),
        ("", "f.yaml:1:1: the file is empty"),
        ("# only a comment\n", "f.yaml:1:1: the file is empty"),
        ("null", "f.yaml:1:1: expected a mapping of keys to values at the top of the file"),
        ("- a\n- b", "f.yaml:1:1: expected a mapping of keys to values at the top of the file"),
        ("word", "f.yaml:1:1: expected a mapping"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: expected one YAML document"),
    ],
)
def test_what_is_wrong_is_said_once_with_its_position(text, message):
    if message is None:
        assert parse_yaml(text, "f").data == {"a": "-.NaN"}
        return
    found = faults(text)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_all_faults_come_together():
    assert len(faults("a: .nan\nb: !t 1\na: 2\nc: 1e999\n")) == 4


N = MAX_BYTES
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(7)
)
HOSTILE = {
    "brackets": "[" * N,
    "mappings": "{a: " * (N // 4),
    "indentation": "\n".join(" " * i + "a:" for i in range(1400)),
    "dashes": "- " * (N // 2),
    "bomb": BOMB,
    "many aliases": "a: &a 1\n" + "".join(f"b{i}: *a\n" for i in range(65)),
    "list": "a: [" + "1," * (N // 2 - 10) + "]",
    "keys": "".join(f"k{i}: 1\n" for i in range(N // 12)),
    "duplicates": "a: 1\n" * (N // 5),
    "tags": "- !a x\n" * (N // 7),
    "digits": "a: " + "1" * (N - 10),
    "open quote": 'a: "' + "\\x41" * (N // 4 - 5),
    "too long": "a: " + "x" * N,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_at_once(kind, tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(HOSTILE[kind])
    memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb < 150_000
    assert len(caught.value.faults) <= 50
    assert caught.value.faults[0].location.line >= 1


def test_100_mb_are_not_read(tmp_path):
    path = tmp_path / "f.yaml"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)
    with pytest.raises(ConfigError, match=r":1:1: the file is too large"):
        load_yaml(path)


def test_bytes_that_are_not_utf_8_are_located(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes("a: 1\nb: caf\u00e9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"f.yaml:2:7: byte 0xe9 is not UTF-8 text"):
        load_yaml(path)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b", "x" * 5000, "/dev/zero"])
def test_what_is_no_file_is_refused(name, tmp_path):
    with pytest.raises(ConfigError):
        load_yaml(tmp_path / name)


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("a:-[]{}&*!|>'\"#?, \n\t1.e", max_size=60))
def test_any_text_is_a_mapping_or_a_config_error(text):
    with suppress(ConfigError):
        assert isinstance(parse_yaml(text, "f").data, dict)


printable = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12).filter(
    lambda text: not any(c in text for c in "\u2028\u2029\ufeff\ufffe\uffff")
)
tricky = st.sampled_from(["1e3", "no", "true", "", "~", "1:30", ".nan", "9" * 30, "- a", "a: b"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | printable
    | tricky
)
keys = printable.filter(lambda text: len(text) > 0) | tricky
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(keys, values, max_size=4))
def test_what_is_dumped_is_read_back(data):
    if not data:
        return
    read = parse_yaml(dump_yaml(data), "f").data
    assert read == data
    assert repr(read) == repr(data)


def test_dumped_text_is_short():
    assert dump_yaml({"weight": [0.5, 1.0], "name": "1e3"}) == 'weight: [0.5, 1.0]\nname: "1e3"\n'


def test_resolving_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="not a finite number"):
        resolve_scalar(".inf")


def test_loading_reads_a_file(tmp_path: Path):
    path = tmp_path / "f.yaml"
    path.write_text("a: 1\n")
    assert load_yaml(path).data == {"a": 1}
    assert load_yaml(str(path)).source == str(path)
