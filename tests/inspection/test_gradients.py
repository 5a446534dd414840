"""`automerge inspect --gradients`: cosines of gradients, and falls of losses to first order."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from automerge import cli
from tests.evaluation.toys import WORDS, make_model
from tests.zoo import neighbour, save, write_adapter

STEP = 3e-3
"""Norms round to float32, so losses to 1e-7 or so, and slopes to 2e-5; truncation is STEP²."""


@pytest.fixture
def zoo(tmp_path):
    save(make_model("llama", 0), tmp_path / "base")
    for seed, name in enumerate(("left", "right"), start=1):
        save(neighbour(seed), tmp_path / name)
        words = np.random.default_rng(seed).choice(WORDS, 60)
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    write_adapter(tmp_path / "adapter")
    return tmp_path


def inspected(zoo, sources, texts, capsys, *more):
    models = [str(zoo / name) for name in ("base", *sources)]
    options = [part for text in texts for part in ("--gradients", text)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *models, *options, *more])
    return ended.value.code, capsys.readouterr()


def double(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def loss(zoo, model, name):
    ids = AutoTokenizer.from_pretrained(zoo / "base")((zoo / f"{name}.txt").read_text())
    given = torch.tensor([ids["input_ids"]])
    logs = model(given).logits[0, :-1].log_softmax(-1)  # transformers' own loss is in float32
    return -logs.gather(1, given[0, 1:, None]).mean()


def test_cosines_and_falls_are_those_of_autograd_and_finite_differences(zoo, capsys):
    names = ("left", "right")
    texts = [f"{name}={zoo / name}.txt" for name in names]
    code, said = inspected(zoo, names, texts, capsys, "--json")
    assert code == 0
    found = json.loads(said.out)["gradients"]
    base = double(zoo / "base")
    flat = []
    for name in names:
        parts = torch.autograd.grad(loss(zoo, base, name), list(base.parameters()))
        flat.append(torch.cat([part.reshape(-1) for part in parts]))
    expected = torch.nn.functional.cosine_similarity(*flat, dim=0).item()
    [pair] = found["pairs"]
    assert pair["cosine"] == pytest.approx(expected, abs=1e-5)
    falls = {(row["text"], row["source"]): row["nats"] for row in found["falls"]}
    assert len(falls) == 4
    for source in names:
        other = double(zoo / source)
        far = torch.cat([p.detach().reshape(-1) for p in other.parameters()])
        near = torch.cat([p.detach().reshape(-1) for p in base.parameters()])
        for text in names:
            product = (flat[names.index(text)] @ (near - far)).item()
            assert falls[text, source] == pytest.approx(product, abs=2e-5)
            ends = []
            for step in (-STEP, STEP):
                moved = double(zoo / "base")
                with torch.no_grad():
                    for own, goal in zip(moved.parameters(), other.parameters(), strict=True):
                        own += step * (goal - own)
                    ends.append(loss(zoo, moved, text).item())
            slope = (ends[1] - ends[0]) / (2 * STEP)
            assert falls[text, source] == pytest.approx(-slope, abs=1e-3)


def test_one_text_for_all_agrees_with_itself_also_for_an_adapter(zoo, capsys):
    code, said = inspected(zoo, ("left", "adapter"), [str(zoo / "left.txt")], capsys, "--json")
    assert code == 0
    [pair] = json.loads(said.out)["gradients"]["pairs"]
    assert [pair["cosine"], *pair["layers"]] == pytest.approx([1.0] * 3, abs=1e-12)


def test_one_source_has_a_fall_and_no_pair(zoo, capsys):
    code, said = inspected(zoo, ("left",), [str(zoo / "left.txt")], capsys, "--json")
    assert code == 0
    found = json.loads(said.out)["gradients"]
    assert found["pairs"] == []
    assert len(found["falls"]) == 1


def test_tables_and_the_page_show_every_pair_and_every_fall(zoo, capsys):
    texts = [f"{name}={zoo / name}.txt" for name in ("left", "right")]
    page = zoo / "page.html"
    code, said = inspected(zoo, ("left", "right"), texts, capsys, "--html", str(page))
    assert code == 0
    words = " ".join(said.out.split())
    assert "left · right" in words
    assert "to left" in words
    assert "Fall of the loss" in page.read_text()
    assert page.read_text().count("left · right: ") == 2


def test_models_in_bfloat16_have_gradients_in_float32(zoo, capsys):
    texts = [f"{name}={zoo / name}.txt" for name in ("left", "right")]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for name in ("base", "left", "right"):
            model = AutoModelForCausalLM.from_pretrained(zoo / name, dtype=torch.float32)
            rounded = model.to(torch.bfloat16)  # the same numbers, twice
            rounded.to(dtype).save_pretrained(zoo / name)
        code, said = inspected(zoo, ("left", "right"), texts, capsys, "--json")
        assert code == 0
        found.append(json.loads(said.out)["gradients"]["pairs"][0]["cosine"])
    # Eight bits in every layer's numbers: a few times 2⁻⁸ of a gradient, and so of the cosine.
    assert found[0] == pytest.approx(found[1], abs=0.05)


@pytest.mark.parametrize(
    ("texts", "said", "expected"),
    [
        (["lfet=left.txt"], "there is no source 'lfet'", 2),
        (["left=left.txt"], "no text for right", 2),
        (["short.txt"], "has one token", 3),
        (["nowhere.txt"], "nowhere.txt", 2),
    ],
)
def test_faults_are_named(zoo, capsys, monkeypatch, texts, said, expected):
    monkeypatch.chdir(zoo)
    (zoo / "short.txt").write_text(str(WORDS[0]))
    code, shown = inspected(zoo, ("left", "right"), texts, capsys)
    assert said in " ".join(shown.err.split())
    assert code == expected
