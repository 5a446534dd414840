"""What the zoos of real text promise: nothing held out is trained on, and choices are fair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from automerge.space.named import NAMED, space_file
from experiments.search_quality import functions, model, tasks
from experiments.search_quality.cell import Cell, settings, zoo_config
from experiments.search_quality.corpus import Part, code, docstrings, plain, read_domain

TEXTS = [
    f"Number {i} is known for its square, {i * i}, and its cube, {i**3}; "
    f"they are followed by those of {i + 1}, and so are all the others that come behind it."
    for i in range(60)
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package of text files that share every third paragraph."""
    folder = tmp_path / "texts_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for i in range(60):
        own = [TEXTS[i], TEXTS[i // 3], f"Only file {i} says this, {'over and over, ' * 8}{i}."]
        (folder / f"{i}.txt").write_text("\n\n".join(own), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.name


def test_nothing_held_out_is_trained_on(package: str) -> None:
    found = read_domain([Part(package, ("*.txt",), plain)], 0)
    sides = [
        [line for text in side for line in text.splitlines()] for side in found.__dict__.values()
    ]
    assert not set(sides[0]) & set(sides[1])
    assert 0.05 < len(found.held_out) / (len(found.train) + len(found.held_out)) < 0.45
    assert all(len(set(side)) == len(side) for side in sides)


def test_documents_depend_on_the_seed_by_their_order_alone(package: str) -> None:
    one, other = (read_domain([Part(package, ("*.txt",), plain)], seed) for seed in (0, 1))
    assert one != other
    assert sorted(one.train) == sorted(other.train)
    assert one == read_domain([Part(package, ("*.txt",), plain)], 0)


def test_code_and_docstrings_share_no_line(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text('"""Words."""\ndef f():\n    """More\n    words."""\n    return "text"\n')
    assert code(file).split() == ["def", "f():", "return", '"text"']
    assert docstrings(file) == "Words.\n\nMore\nwords."


def test_a_choice_is_a_cut_that_no_token_spans(tmp_path: Path) -> None:
    tasks.write_choice("squares", TEXTS, 0, tmp_path)
    tokenizer = model.make_tokenizer(TEXTS)
    items = [json.loads(line) for line in (tmp_path / "squares.jsonl").read_text().splitlines()]
    assert len(items) == len(TEXTS)
    for item, text in zip(items, TEXTS, strict=True):
        prompt, choices = item["prompt"], item["choices"]
        assert text.startswith(prompt + choices[item["answer"]])
        assert len(set(choices)) == tasks.CHOICES
        for choice in choices:
            parts = tokenizer(prompt)["input_ids"] + tokenizer(choice)["input_ids"]
            assert parts == tokenizer(prompt + choice)["input_ids"]
    assert len({item["answer"] for item in items}) == tasks.CHOICES


def test_rows_are_the_documents(tmp_path: Path) -> None:
    tokenizer = model.make_tokenizer(TEXTS)
    rows, labels = model.make_rows(tokenizer, TEXTS)
    kept = [row[label != model.IGNORED] for row, label in zip(rows, labels, strict=True)]
    assert sorted(tokenizer.decode(row) for row in kept) == sorted(TEXTS)
    assert (rows[:, 0] == tokenizer.bos_token_id).all()
    assert ((labels == rows) | (labels == model.IGNORED)).all()


@pytest.mark.parametrize("space", NAMED)
def test_a_cell_is_a_study_of_the_shipped_space(space: str, tmp_path: Path) -> None:
    made = settings(Cell("demo", space, "random", 30, 3), zoo_config("demo", {}), tmp_path / "run")
    methods = yaml.safe_load(space_file(space).read_text())["methods"]
    named = methods if isinstance(methods, list) else {m for own in methods.values() for m in own}
    assert set(made.search.methods) == set(named)
    assert (made.sampler, made.budget, made.seed) == ("random", 30, 3)


def test_settings_follow_a_samplers_name(tmp_path: Path) -> None:
    cell = Cell("demo", "quick", "gp,resolution=0.5,split.max_select=40", 30, 3)
    made = settings(cell, zoo_config("demo", {}), tmp_path / "run")
    assert (made.sampler, made.resolution, made.split.max_select) == ("gp", 0.5, 40)


def test_a_sampler_searches_the_cube_it_is_given() -> None:
    seen: list[np.ndarray] = []

    def evaluate(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return np.array([x.sum(), -x[0]])

    rows = functions.ours("random")(evaluate, 7, 20, 0)
    points = np.array(seen[1:])
    assert points.shape == (20, 7)
    assert 0 <= points.min() < 0.2
    assert 0.8 < points.max() <= 1
    assert np.array_equal(rows[:, 1], -points[:, 0])
