"""What the documentation's site has besides docs/: the pages at the top, and links into the code.

mkdocs calls these functions by their names (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "CONTRIBUTING.md": "", "SECURITY.md": "", "CHANGELOG.md": ""}
"""Pages of the site → the files they are made of, where the names differ."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the top of the repository."""
    for page, source in PAGES.items():
        text = (ROOT / (source or page)).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for drawing in ROOT.glob("experiments/*/*.svg"):
        name = drawing.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=drawing.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at pages of the site, and those to other files at the repository."""
    name = page.file.src_uri
    folder = (
        PurePosixPath() if name in PAGES else PurePosixPath("docs") / PurePosixPath(name).parent
    )
    up = "../" * (len(PurePosixPath(name).parts) - 1)

    def moved(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if ":" in target:
            return match[0]
        path = normpath((folder / target).as_posix())
        if not (ROOT / path).exists():
            raise PluginError(f"{name}: links to {target}, which does not exist")
        here = next((p for p, source in PAGES.items() if (source or p) == path), None)
        inside = here or path.removeprefix("docs/")
        if files.get_file_from_path(inside) is not None:
            return f"{before}{up}{inside}{after}"
        return f"{before}{_repository()}/blob/main/{path}{after}"

    return LINK.sub(moved, markdown)


def _repository() -> str:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(table["project"]["urls"]["Repository"])
