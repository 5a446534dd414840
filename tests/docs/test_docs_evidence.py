"""docs/evidence.md lists every kind of evidence and who uses it, and its files are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from automerge.config.load import load_config
from automerge.evidence import KINDS
from automerge.methods import METHODS
from tests.docs.test_docs import REPOSITORY, blocks

PAGE = (REPOSITORY / "docs" / "evidence.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| .* \| (.*) \|$", re.MULTILINE)
RECIPES = REPOSITORY / "docs" / "recipes" / "evidence"


def test_every_kind_has_a_row_with_the_methods_that_need_it() -> None:
    rows = dict(ROW.findall(PAGE.split("## Kinds")[1].split("\n## ")[0]))
    assert rows.keys() == KINDS.keys()
    for kind, users in rows.items():
        named = {name for name in re.findall(r"`(\w+)`", users) if name in METHODS}
        assert named == {m.name for m in METHODS.values() if kind in m.needs}, kind


@pytest.mark.parametrize("kind", [kind for m in METHODS.values() for kind in m.needs])
def test_every_kind_that_a_method_needs_is_a_kind(kind: str) -> None:
    assert kind in KINDS


def test_the_studies_shown_are_read(tmp_path: Path) -> None:
    for name in ("calibration", "maths", "code"):
        (tmp_path / f"{name}.txt").write_text("some text")
        (tmp_path / name).mkdir()
    shown = [block for block in blocks("evidence.md", "yaml") if "text:" in block]
    assert len(shown) == 3
    rest = {"base": "org/base", "models": {n: f"./{n}" for n in ("maths", "code")}}
    for block in shown:
        path = tmp_path / "study.yaml"
        plain = {"search": {"methods": ["regmean"]}, **yaml.safe_load(block)}
        path.write_text(yaml.safe_dump({**rest, "tasks": ["gsm8k"], **plain}))
        assert load_config(path).evidence is not None


def test_the_recipes_are_listed() -> None:
    page = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
    listed = re.findall(r"\(recipes/evidence/(\w+)\.yaml\)", page)
    assert sorted(listed) == sorted(path.stem for path in RECIPES.glob("*.yaml"))
