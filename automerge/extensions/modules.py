"""Users' modules: read as source, so that they have a digest and can be sent to workers.

Only modules that the user named (`extensions:` in the configuration, `--extension`) are ever
imported: a recipe or a run folder from somebody else cannot make automerge run code.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

from automerge.errors import ConfigError, Fault

MAX_BYTES = 2_000_000
"""The maximum total size of one extension's source."""
_installed: dict[str, Extension] = {}
"""The extensions installed in this process, by name."""


@dataclass(frozen=True)
class Extension:
    """A module or package, by its import name, and its files: relative path → source text.

    A module has one file, `NAME.py`; a package has all its Python files, including
    `NAME/__init__.py`.
    """

    name: str
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))

    def __reduce__(self) -> tuple[type[Extension], tuple[str, dict[str, str]]]:
        return Extension, (self.name, dict(self.files))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify the content of all files."""
        text = "\0".join(f"{path}\0{source}" for path, source in self.files.items())
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_extension(reference: str, folder: Path) -> Extension:
    """Read a module, given by import name or by path, without running it.

    Args:
        reference: an import name, or a path to a .py file or a package.
        folder: the folder that paths are relative to; names are looked up in it, then on
            `sys.path`.

    Raises:
        ConfigError: there is no such module, or it is too large or not text.
    """
    if reference.endswith(".py") or "/" in reference:
        path = folder / Path(reference).expanduser()
        if not path.exists():
            raise ConfigError(f"no such file: {path}")
    else:
        path = _find(reference, folder)
    if path.name == "__init__.py":
        path = path.parent
    name = path.stem
    if not name.isidentifier():
        raise ConfigError(f"{path}: {name!r} is not a valid module name")
    sources = [path] if path.is_file() else sorted(path.rglob("*.py"))
    if path.is_dir() and path / "__init__.py" not in sources:
        raise ConfigError(f"{path} is not a Python package: it has no __init__.py")
    total = 0
    files: dict[str, str] = {}
    for source in sources:
        if not source.is_file():
            raise ConfigError(f"{source} is not a file")
        total += source.stat().st_size
        if total > MAX_BYTES:
            raise ConfigError(f"{path} contains more than {MAX_BYTES:,} bytes of source")
        try:
            files[str(source.relative_to(path.parent))] = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: {error}") from error
    return Extension(name, files)


def _find(name: str, folder: Path) -> Path:
    if not name.isidentifier():
        raise ConfigError(
            f"{name!r} is not a module: expected an import name such as my_methods, or a path to "
            "a .py file or package"
        )
    found = importlib.machinery.PathFinder.find_spec(name, [str(folder), *sys.path])
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise ConfigError(f"no Python module {name!r} in {folder} or among the installed packages")
    return Path(found.origin)


def install(extensions: Iterable[Extension]) -> None:
    """Make modules importable in this process, and import them; those already installed are kept.

    Raises:
        ConfigError: a module cannot be imported; the message names the line where it failed.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for extension in extensions:
        if _installed.get(extension.name) == extension:
            continue
        if extension.name in sys.builtin_module_names or extension.name == "automerge":
            raise ConfigError(f"an extension cannot be named {extension.name!r}")
        _remove(extension.name)
        _installed[extension.name] = extension
        try:
            importlib.import_module(extension.name)
        except (Exception, SystemExit) as error:
            _remove(extension.name)
            raise ConfigError(_blame(extension, error)) from error


def load_extensions(references: Iterable[str], folder: Path) -> tuple[Extension, ...]:
    """Read and import modules, relative to `folder`.

    Raises:
        ConfigError: some modules cannot be read or imported; names the faults of all of them.
    """
    faults: list[Fault] = []
    loaded: list[Extension] = []
    for reference in references:
        try:
            extension = read_extension(reference, folder)
            install([extension])
        except ConfigError as error:
            faults += error.faults
        else:
            loaded.append(extension)
    if faults:
        raise ConfigError(faults)
    return tuple(loaded)


def installed(names: Iterable[str]) -> tuple[Extension, ...]:
    """Return extensions of this process by name.

    Raises:
        KeyError: one of them was not installed.
    """
    return tuple(_installed[name] for name in names)


def _remove(name: str) -> None:
    _installed.pop(name, None)
    for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[loaded]


def _blame(extension: Extension, error: BaseException) -> str:
    """Describe where in the user's module an import failed."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: the extension cannot be imported: {error.msg}"
    where = raised_at(extension.name, error) or extension.name
    return f"{where}: the extension cannot be imported: {message}"


def raised_at(name: str, error: BaseException) -> str | None:
    """Return the last line of an extension that an error went through, as FILE:LINE."""
    lines = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == f"{name}.py" or frame.filename.startswith(f"{name}/")
    ]
    return lines[-1] if lines else None


def attribute(reference: str) -> object:
    """Look up `module:name` among the installed extensions.

    Raises:
        KeyError: there is no such module or name.
    """
    module, _, name = reference.partition(":")
    found = sys.modules.get(module) if module.partition(".")[0] in _installed else None
    if found is None or not name or not hasattr(found, name):
        raise KeyError(reference)
    return getattr(found, name)


def missing(reference: str) -> str:
    """Describe why `module:name` cannot be looked up."""
    module, _, name = reference.partition(":")
    if module.partition(".")[0] not in _installed:
        return (
            f"the module {module!r} is not loaded; list it under `extensions:`, or pass "
            f"--extension {module}"
        )
    return f"{module} has no {name!r}"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds installed extensions and their submodules before any file of the same name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        extension = _installed.get(fullname.partition(".")[0])
        if extension is None:
            return None
        stem = fullname.replace(".", "/")
        for file, is_package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if file in extension.files:
                loader = _Loader(file, extension.files[file], is_package)
                return importlib.util.spec_from_loader(fullname, loader, is_package=is_package)
        return None


class _Loader(importlib.abc.InspectLoader):
    """Runs one file of an extension from its source text."""

    def __init__(self, path: str, source: str, package: bool) -> None:
        self._path = path
        self._source = source
        self._package = package

    def get_source(self, fullname: str) -> str:
        return self._source

    def is_package(self, fullname: str) -> bool:
        return self._package

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._path, "exec", dont_inherit=True), module.__dict__)
