"""automerge: the search engine for merged language models.

    import automerge

    study = automerge.search("automerge.yaml")
    for member in study.front:
        print(member.name, member.kind, member.scores)

`search` runs or resumes a study, `load_study` reads one, `load_config` checks a configuration,
`Recipe` is one way to merge, `__version__` the installed version. Every error that the user can
fix is an `AutomergeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automerge.commands.search import search
    from automerge.config import StudyConfig, load_config
    from automerge.errors import AutomergeError
    from automerge.recipe import Profile, Recipe, RecipeSource
    from automerge.report.study import FrontMember, Study, load_study

__all__ = [
    "AutomergeError",
    "FrontMember",
    "Profile",
    "Recipe",
    "RecipeSource",
    "Study",
    "StudyConfig",
    "load_config",
    "load_study",
    "search",
]

_HOMES = {
    "AutomergeError": "errors",
    "FrontMember": "report.study",
    "Profile": "recipe",
    "Recipe": "recipe",
    "RecipeSource": "recipe",
    "Study": "report.study",
    "StudyConfig": "config",
    "load_config": "config",
    "load_study": "report.study",
    "search": "commands.search",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `automerge --help` pays for nothing else."""
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("automerge-llm")
    if name not in _HOMES:
        raise AttributeError(f"module 'automerge' has no attribute {name!r}")
    return getattr(import_module(f"automerge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__"})
