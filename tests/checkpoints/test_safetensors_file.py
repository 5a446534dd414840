"""Headers of sound files, and of every kind of broken one."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from automerge.checkpoints.safetensors_file import (
    DTYPES,
    TensorInfo,
    header_bytes,
    read_header,
)
from automerge.errors import PreflightError

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.ones(5, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "n": torch.tensor(3),
}


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def good(tmp_path) -> bytes:
    save_file(TENSORS, tmp_path / "good.safetensors", metadata={"format": "pt"})
    return (tmp_path / "good.safetensors").read_bytes()


def test_a_header_written_by_safetensors_is_read(tmp_path):
    good(tmp_path)
    infos = read_header(tmp_path / "good.safetensors")
    assert infos == {
        name: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch."))
        for name, t in TENSORS.items()
    }


def test_a_header_we_write_is_read_by_safetensors(tmp_path):
    from safetensors import safe_open

    infos = {"x": TensorInfo((2, 3), "bfloat16"), "ü": TensorInfo((4,), "int64")}
    data = bytes(sum(info.n_bytes for info in infos.values()))
    (tmp_path / "f.safetensors").write_bytes(header_bytes(infos, {"format": "pt"}) + data)
    assert read_header(tmp_path / "f.safetensors") == infos
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("x").dtype == torch.bfloat16


@pytest.mark.parametrize("code", DTYPES)
def test_dtypes_are_torch_dtypes_of_that_size(code):
    name, n_bytes = DTYPES[code]
    assert torch.empty(1, dtype=getattr(torch, name)).element_size() == n_bytes


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n"
MUTANTS = {
    "empty": (b"", "empty file"),
    "three bytes": (b"abc", "3 bytes, expected at least 8"),
    "pointer": (POINTER, "git-lfs pointer"),
    "html": (b"\n<!DOCTYPE html><html>Please log in</html>", "web page"),
    "zip": (b"PK\x03\x04" + bytes(40), "pickle"),
    "pickle": (b"\x80\x02}q\x00." + bytes(40), "pickle"),
    "2^60 header": ((2**60).to_bytes(8, "little") + b"{}", "1,152,921,504,606,846,976"),
    "cut header": (header({"a": entry()})[:30], "truncated: the header alone needs"),
    "not JSON": (header(b"{]"), "not JSON"),
    "not UTF-8": (header(b'{"\xff": 1}'), "not JSON"),
    "deep JSON": (header(b"[" * 100_000), "not JSON"),
    "huge number": (header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"), "not JSON"),
    "a list": (header([]), "JSON object"),
    "name twice": (header(b'{"a":1,"a":1}'), "occurs twice"),
    "no dtype": (header({"a": {"shape": []}}), "lacks dtype"),
    "unknown dtype": (header({"a": entry("F4")}), "'F4'"),
    "unhashable dtype": (header({"a": entry([])}), "dtype"),
    "negative shape": (header({"a": entry(shape=(-1,))}), "whole numbers"),
    "true shape": (header({"a": entry(shape=(True,))}), "whole numbers"),
    "offsets backwards": (header({"a": entry(offsets=(8, 0))}, bytes(8)), "needs 8 bytes, got -8"),
    "shape too large": (header({"a": entry(shape=(2**40,))}, bytes(8)), "needs 4,398,046,511,104"),
    "cut data": (header({"a": entry()}, bytes(5)), "truncated"),
    "trailing data": (header({"a": entry()}, bytes(9)), "the file has"),
    "a hole": (header({"a": entry(offsets=(4, 12))}, bytes(12)), "starts at byte 4, expected 0"),
    "an overlap": (header({"a": entry(), "b": entry()}, bytes(8)), "starts at byte 0, expected 8"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_file_is_one_fault_that_says_what_it_is(mutant, tmp_path):
    content, message = MUTANTS[mutant]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(PreflightError) as caught:
        read_header(path)
    [fault] = caught.value.faults
    assert str(path) in fault.message
    assert message in fault.message


def test_a_missing_file_is_a_fault(tmp_path):
    with pytest.raises(PreflightError, match="No such file"):
        read_header(tmp_path / "model.safetensors")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_is_refused_and_any_changed_header_byte_is_read_or_refused(data, tmp_path):
    content = good(tmp_path)
    path = tmp_path / "mutant.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(PreflightError):
        read_header(path)
    mutant = bytearray(content)
    n = 8 + int.from_bytes(content[:8], "little")
    for at in data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4)):
        mutant[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(mutant))
    try:
        infos = read_header(path)
    except PreflightError:
        return
    assert sum(info.n_bytes for info in infos.values()) <= len(content)
