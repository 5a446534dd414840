"""docs/methods.md lists every method, with the knobs and the paper it declares.

`python -m tests.docs.test_docs_methods` rewrites those columns; sentences, and how a method differs
from its paper, are written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from automerge.methods import METHODS, Knob, Method

PAGE = Path(__file__).parents[2] / "docs/methods.md"
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \|.*\|([^|]*)\|$", flags=re.MULTILINE)
COMPARING = re.compile(r"(weight 0 have no influence, except in )[^.]*?(,\s+which compare)")


def row(method: Method, sentence: str, differs: str) -> str:
    paper = re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", method.paper)
    cells = (f"`{method.name}`", sentence, knobs(method.source_knobs), knobs(method.recipe_knobs))
    return f"| {' | '.join((*cells, paper))} |{differs}|"


def knobs(declared: Iterable[Knob]) -> str:
    return ", ".join(map(shown, declared)) or "none"


def shown(knob: Knob) -> str:
    """Name, default and what is searched."""
    if knob.kind == "bool":
        return f"`{knob.name}` {str(knob.default).lower()}"
    bounds = f" [{knob.search[0]:g}, {knob.search[1]:g}]" if knob.search else ""
    return f"`{knob.name}` {knob.default:g}{bounds}"


def comparing() -> str:
    """The methods in which a source of weight 0 has a say."""
    *others, last = (f"`{name}`" for name in sorted(METHODS) if METHODS[name].compares)
    return f"{', '.join(others)} and {last}"


def rewritten(page: str) -> str:
    page = COMPARING.sub(lambda m: m[1] + comparing() + m[2], page)
    return ROW.sub(lambda m: row(METHODS[m[1]], m[2], m[3]) if m[1] in METHODS else m[0], page)


def test_every_method_has_one_row_and_no_row_is_of_another():
    listed = [match[1] for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]
    assert sorted(listed) == sorted(METHODS)


def test_rows_state_the_declared_knobs_and_papers():
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page), "run: python -m tests.docs.test_docs_methods"


def test_the_methods_that_compare_all_sources_are_named():
    assert COMPARING.search(PAGE.read_text(encoding="utf-8"))


def test_every_method_is_described():
    for match in ROW.finditer(PAGE.read_text(encoding="utf-8")):
        assert len(match[2].split()) >= 4, match[1]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
