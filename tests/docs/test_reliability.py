"""docs/reliability.md and SECURITY.md name tests that exist, and leave no fault out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RELIABILITY = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
SECURITY = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
TESTS = sorted(
    set(re.findall(r"`((?:tests|automerge/testing)/[\w/]+\.py)::(\w+)`", RELIABILITY + SECURITY))
)
FAULTS = 55


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    assert name in functions(file)


def test_every_fault_has_its_row_with_a_proof_or_a_reason() -> None:
    rows = re.findall(r"^\| F(\d+) (.*)\|$", RELIABILITY, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, FAULTS + 1))
    for number, row in rows:
        assert "::" in row or "*not tried*" in row.lower(), f"F{number}"


def test_every_promise_of_security_names_its_test() -> None:
    promises = SECURITY.split("## What automerge promises")[1].split("## What it does not")[0]
    items = re.split(r"^- ", promises, flags=re.MULTILINE)[1:]
    assert len(items) >= 8
    for item in items:
        assert "::" in item, item
