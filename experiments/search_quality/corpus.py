"""Real text of several kinds from the Python packages that automerge itself needs.

Nothing is downloaded: folders are found at run time from the running interpreter and the installed
packages, so the text, and with it the zoo, depends on their versions. A file belongs wholly to
training or wholly to the held-out part, by a hash of its name; a paragraph that occurs twice is
kept once, and never on both sides.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import random
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HELD_OUT = 0.2
"""Share of the files that no model is trained on."""

CHUNK_BYTES = 200
"""A document is at most this long."""

SHORTEST_BYTES = 100
"""What is left of a paragraph beyond the last full document is dropped below this."""

FILES = 1600
"""Files read for a domain at most, chosen by the hash of their names."""

Reader = Callable[[Path], str]


@dataclass(frozen=True)
class Part:
    """Files of one installed package, and what of their text is taken."""

    package: str
    patterns: tuple[str, ...]
    read: Reader
    without: tuple[str, ...] = ()
    """Names of folders that are left out."""


@dataclass(frozen=True)
class Domain:
    """Documents of one kind of text."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def plain(path: Path) -> str:
    """The whole text."""
    return path.read_text(encoding="utf-8", errors="ignore")


def code(path: Path) -> str:
    """Python without its docstrings; empty where it cannot be parsed."""
    text = plain(path)
    lines = text.splitlines()
    for node in _documented(text):
        first = node.body[0]
        for number in range(first.lineno - 1, first.end_lineno or first.lineno):
            lines[number] = ""
    return "\n".join(lines)


def docstrings(path: Path) -> str:
    """The docstrings of a Python file alone, one after the other."""
    found = (ast.get_docstring(node) for node in _documented(plain(path)))
    return "\n\n".join(text for text in found if text)


def _documented(
    text: str,
) -> list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [n for n in ast.walk(tree) if isinstance(n, kinds) and ast.get_docstring(n) is not None]


TESTS = ("tests", "test", "testing", "idlelib", "lib2to3")
HANDWRITTEN = ("include/c10/**/*.h", "include/torch/**/*.h")
"""PyTorch's headers without those that a program wrote."""
STDLIB = "python"
"""Stands for the standard library among the packages' names."""
ALL_PACKAGES = "*"
"""Stands for what every installed package says of itself: read-mes and licences."""

DOMAINS: Mapping[str, tuple[Part, ...]] = {
    "code": (
        Part(STDLIB, ("*.py",), code, TESTS),
        Part("optuna", ("*.py",), code, TESTS),
        Part("datasets", ("*.py",), code, TESTS),
    ),
    "manual": tuple(
        Part(package, ("*.py",), docstrings, TESTS)
        for package in ("numpy", "scipy", "pandas", "torch")
    ),
    "headers": (
        Part("torch", HANDWRITTEN, plain),
        Part("pyarrow", ("include/**/*.h",), plain),
    ),
    "prose": (
        Part(ALL_PACKAGES, ("METADATA", "**/*LICENSE*", "**/*NOTICE*", "**/*COPYING*"), plain),
        Part("lm_eval", ("**/*.md",), plain),
    ),
}
"""The kinds of text, each with where it is found."""

SUBDOMAINS: Mapping[str, tuple[Part, ...]] = {
    "stdlib": (Part(STDLIB, ("*.py",), code, TESTS),),
    "models": (Part("transformers", ("models/**/*.py",), code),),
    "maths": (Part("sympy", ("**/tests/test_*.py",), code),),
    "frames": (Part("pandas", ("tests/**/*.py",), code),),
    "arrays_manual": (Part("numpy", ("*.py",), docstrings, TESTS),),
    "torch_manual": (Part("torch", ("*.py",), docstrings, TESTS),),
    "torch_headers": (Part("torch", HANDWRITTEN, plain),),
    "arrow_headers": (Part("pyarrow", ("include/**/*.h",), plain),),
    "read_mes": (Part(ALL_PACKAGES, ("METADATA",), plain),),
    "questions": (Part("lm_eval", ("**/*.yaml",), plain),),
}
"""Finer kinds, for a pool of many small sources."""


def read_domain(parts: Sequence[Part], seed: int) -> Domain:
    """Documents of all parts, both sides in an order drawn from the seed.

    Raises FileNotFoundError where a package is missing or holds nothing to read.
    """
    sides: dict[bool, list[str]] = {False: [], True: []}
    seen: set[str] = set()
    files = sorted(
        (file for part in parts for file in _files(part)), key=lambda file: (not file[3], file[2])
    )
    for path, read, _, held_out in files:
        sides[held_out].extend(_documents(read(path), seen))
    if not all(sides.values()):
        names = ", ".join(part.package for part in parts)
        raise FileNotFoundError(f"no text found in {names}; install automerge with its tests")
    for side in sides.values():
        random.Random(seed).shuffle(side)
    return Domain(tuple(sides[False]), tuple(sides[True]))


def _files(part: Part) -> Iterator[tuple[Path, Reader, float, bool]]:
    """Paths with their reader, a number between 0 and 1 hashed from the name, and whether held
    out."""
    found = []
    for folder in _folders(part.package):
        for pattern in part.patterns:
            paths = folder.rglob(pattern) if "/" not in pattern else folder.glob(pattern)
            for path in paths:
                name = path.relative_to(folder.parent)
                if path.is_file() and not {"site-packages", *part.without} & set(name.parts):
                    found.append((_number(name.as_posix()), path))
    for number, path in sorted(set(found))[:FILES]:
        yield path, part.read, number, number * 997 % 1 < HELD_OUT


def _folders(package: str) -> list[Path]:
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    if package == ALL_PACKAGES:
        return sorted(_folder("numpy").parent.glob("*.dist-info"))
    return [_folder(package)]


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"package {package} is not installed; install automerge's tests")
    return Path(spec.origin).parent


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _documents(text: str, seen: set[str]) -> Iterator[str]:
    """Whole lines of new paragraphs, joined up to the length of a document; ASCII only."""
    held: list[str] = []
    size = 0
    for line in _new_lines(text, seen):
        if size + len(line) > CHUNK_BYTES and size >= SHORTEST_BYTES:
            yield "".join(held)
            held, size = [], 0
        if len(line) <= CHUNK_BYTES - size:
            held.append(line)
            size += len(line)
    if size >= SHORTEST_BYTES:
        yield "".join(held)


def _new_lines(text: str, seen: set[str]) -> Iterable[str]:
    for paragraph in text.split("\n\n"):
        key = "".join(filter(str.isalnum, paragraph.lower()))
        if len(key) < 30 or key in seen or not paragraph.isascii():
            continue
        seen.add(key)
        for line in paragraph.splitlines():
            if line.strip():
                yield line.rstrip() + "\n"
