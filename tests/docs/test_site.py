"""The documentation's site has every page, and no link that leads nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = [*(REPOSITORY / name for name in TOP), *sorted((REPOSITORY / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks of code, whose brackets are not links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if ":" in target:
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


def navigation() -> list[str]:
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    return [page for section in settings["nav"] for pages in section.values() for page in pages]


def test_every_page_is_in_the_navigation_once() -> None:
    own = {"index.md" if page.name == "README.md" else page.name for page in PAGES}
    assert sorted(navigation()) == sorted(own)


def test_a_workflow_builds_the_site_as_make_does() -> None:
    file = REPOSITORY / ".github/workflows/docs.yml"
    steps = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]["site"]["steps"]
    assert "make site" in [step.get("run") for step in steps]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if find_spec("material") is None or find_spec("mkdocs") is None:
        pytest.skip('needs the extra "docs": mkdocs-material')
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = {file.name for file in (tmp_path / "site").glob("*.html")}
    assert {page.replace(".md", ".html") for page in navigation()} <= built
