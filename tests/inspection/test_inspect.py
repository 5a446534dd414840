"""`automerge inspect`, as it is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from automerge import cli
from automerge.text.printable import printable
from tests.checkpoints.models import llama, perturb
from tests.checkpoints.vocabularies import (
    bpe,
    copy,
    edit_json,
    edit_weights,
    permuted,
    with_added,
    write,
)
from tests.zoo import write_zoo

BASE = bpe()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write(folder / "base", BASE)
    for seed, name in enumerate(("left", "right"), start=1):
        write(folder / name, BASE, seed=seed)
    return folder


@pytest.fixture(autouse=True)
def here(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(zoo)
    monkeypatch.setenv("COLUMNS", "500")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_models_that_can_be_merged(capsys):
    code, out, err = run(capsys, "base", "left", "second=right")
    assert (code, err) == (0, "")
    assert "Both sources can be merged with base." in out
    assert re.search(r"left +LlamaForCausalLM +3 +16 +300 +float32 +identical +own", out)
    assert "second" in out


def test_narrow_terminals_get_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run(capsys, "base", "left")
    assert code == 0
    assert "  architecture   LlamaForCausalLM\n" in out
    assert all(len(line) <= 60 for line in out.splitlines())


def test_weights_are_read_where_asked(capsys):
    code, out, _ = run(capsys, "base", "left", "right", "--weights")
    assert code == 0
    assert "left · right" in out
    assert "Kinship (mean cosine)" in out


def test_json_has_the_documented_keys(capsys):
    code, out, err = run(capsys, "base", "left", "right", "--weights", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    documented = (Path(__file__).parents[2] / "docs/inspect.md").read_text()
    keys = {*found}
    for rows in (found["models"], found["sources"].values(), found["weights"]["vectors"]):
        keys |= {key for row in rows for key in row}
    keys |= {*found["weights"], *found["weights"]["pairs"][0], *found["sources"]["left"]["nearest"]}
    keys |= {*found["weights"]["vectors"][0]["cells"][0]}
    assert not [key for key in sorted(keys) if f"`{key}`" not in documented]
    assert found["mergeable"] is True
    assert [model["name"] for model in found["models"]] == ["base", "left", "right"]
    json.loads(run(capsys, "base", "left", "--json")[1])


def test_different_vocabularies_exit_with_3_and_say_what_would_help(capsys, tmp_path):
    other = write(tmp_path / "other", bpe(300, ["zebra quiz jigsaw"]))
    code, out, _ = run(capsys, "base", "left", str(other))
    assert code == 3
    assert "a union can be built: `tokenizer: union`" in out
    assert "other cannot be merged with base as they are." in out


@pytest.mark.parametrize(
    ("tokenizer", "kind"),
    [(permuted(BASE), "permuted"), (with_added(BASE, "<|tool|>"), "superset")],
)
def test_vocabularies_that_can_be_brought_together_are_named(tokenizer, kind, capsys, tmp_path):
    other = write(tmp_path / "other", tokenizer, seed=4)
    code, out, _ = run(capsys, "base", str(other), "--weights")
    assert code == 0
    assert kind in out


def test_other_layers_exit_with_3_and_the_reason(capsys, tmp_path):
    deep = write(tmp_path / "deep", BASE, num_hidden_layers=5)
    code, out, _ = run(capsys, "base", "left", str(deep), "--weights", "--json")
    assert code == 3
    found = json.loads(out)
    assert "num_hidden_layers: 5 in deep, 3 in base" in found["sources"]["deep"]["faults"][0]
    assert [vector["source"] for vector in found["weights"]["vectors"]] == ["left"]


def test_a_stranger_is_flagged(capsys, tmp_path):
    other = write(tmp_path / "other", BASE)
    torch.manual_seed(99)
    stranger = llama(vocab_size=300)
    perturb(stranger, 5, 0.5).save_pretrained(other)
    code, out, _ = run(capsys, "base", str(other))
    assert code == 0
    assert "other does not seem to be derived from base" in out


def test_adapters_are_sources_too(capsys, tmp_path):
    (tmp_path / "zoo").mkdir()
    write_zoo(tmp_path / "zoo")
    code, out, _ = run(
        capsys, str(tmp_path / "zoo/base"), f"lora={tmp_path / 'zoo/adapter'}", "--weights"
    )
    assert code == 0
    assert "lora (LoRA)" in out


def test_numbers_that_are_none_are_reported(capsys, tmp_path):
    broken = copy(Path("left"), tmp_path / "broken")

    def poison(state):
        state["model.norm.weight"][3] = float("nan")
        return state

    edit_weights(broken, poison)
    code, out, _ = run(capsys, "base", str(broken), "--weights")
    assert code == 3
    assert "1 element(s) of model.norm.weight are not finite (1 NaN, 0 infinite)" in out
    assert run(capsys, "base", str(broken))[0] == 0
    json.loads(run(capsys, "base", str(broken), "--weights", "--json")[1])


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "truncated"),
        (pickle, "pickle"),
        (remove, "no model.safetensors"),
        (lfs, "git-lfs"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(spoil, said, capsys, tmp_path):
    folder = copy(Path("left"), tmp_path / "spoilt")
    spoil(folder)
    code, out, err = run(capsys, "base", str(folder), "--weights")
    assert (code, out) == (3, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["base"], 2, "SOURCE"),
        (["base", "./none"], 3, "no such folder"),
        (["base", "a=left", "a=right"], 2, "two models are named 'a'"),
        (["base", "<b>=left"], 2, "expected NAME="),
        (["base", "left", "--html", "none/x.html"], 3, "cannot be written"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(arguments, code, said, capsys):
    found = run(capsys, *arguments)
    assert found[0] == code
    assert said in found[2]


def test_planted_html_is_text_on_the_page(capsys, tmp_path):
    planted = "<script>alert(1)</script>"
    evil = copy(Path("left"), tmp_path / "x<img src=x onerror=alert(1)>")
    edit_json(evil / "config.json", architectures=[planted])
    page = tmp_path / "page.html"
    code, _, _ = run(capsys, "base", str(evil), "right", "--weights", "--html", str(page))
    assert code == 0  # transformers goes by model_type, not by the name of a class
    text = page.read_text()
    assert planted not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "script-src" not in text
    assert "default-src &#39;none&#39;" in text
    assert not re.search(r"https?://", text)
    assert text.count("<rect") > 10


def test_control_characters_reach_no_terminal(capsys, tmp_path):
    evil = copy(Path("left"), tmp_path / "evil")
    edit_json(evil / "config.json", architectures=["\x1b[2Jgone"])
    _, out, _ = run(capsys, "base", str(evil))
    assert "\x1b" not in out
    assert printable("a\x1b\u202eb") == "a\ufffd\ufffdb"
