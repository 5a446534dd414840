"""The notebook in docs/ runs, and what its cells show is short."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.studies import toy_study

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def shown(source: str, names: dict[str, object]) -> object:
    """Run a cell; the value of its last expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    toy_study(tmp_path / "runs" / "demo", 30)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            value = shown("".join(cell["source"]), names)
            assert value is not None, cell["source"]
            assert len(repr(value)) < 10_000
    study = names["study"]
    assert "<table>" in study._repr_html_()  # type: ignore[attr-defined]
    scores, best = names["scores"], study.best  # type: ignore[attr-defined]
    own = scores[(scores["model"] == best.name) & (scores["part"] == "test")]  # type: ignore[index]
    assert dict(zip(own["objective"], own["value"], strict=True)) == {
        name: parts.test.value for name, parts in best.scores.items()
    }


def test_it_is_kept_without_outputs() -> None:
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
