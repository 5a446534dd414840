"""automerge: the search engine for merged language models.

    import automerge

    study = automerge.search("automerge.yaml")
    for member in study.front:
        print(member["name"], member["kind"], member["scores"])

`search` runs or resumes a study, `load_study` reads one, `load_config` checks a configuration,
`Recipe` is one way to merge. Everything that is the user's to mend is raised as an
`AutomergeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automerge.commands.search import Study, load_study, search
    from automerge.config import StudyConfig, load_config
    from automerge.errors import AutomergeError
    from automerge.recipe import Profile, Recipe, RecipeSource

__all__ = [
    "AutomergeError",
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
    "Profile": "recipe",
    "Recipe": "recipe",
    "RecipeSource": "recipe",
    "Study": "commands.search",
    "StudyConfig": "config",
    "load_config": "config",
    "load_study": "commands.search",
    "search": "commands.search",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `automerge --help` pays for nothing else."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'automerge' has no attribute {name!r}")
    return getattr(import_module(f"automerge.{_HOMES[name]}"), name)
