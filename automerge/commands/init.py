"""`automerge init`: a study's first configuration, from options, questions or mergekit's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.config import StudyConfig, load_with_options
from automerge.config.recipe_file import RecipeFile, read_recipe
from automerge.config.schema import FILE, SHIPPED
from automerge.config.starter import starter
from automerge.errors import ConfigError
from automerge.files.atomic import write_atomically
from automerge.files.references import resolve, split_name
from automerge.files.yaml_file import load_yaml
from automerge.mergekit import is_evolve
from automerge.recipe import BASE
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

REQUIRED = ("base", "model", "task")


def write_configuration(
    file: Path,
    options: Mapping[str, Any],
    source: Path | None,
    force: bool,
    ask: bool,
    console: Console,
) -> None:
    """Write a study's configuration, with comments.

    Args:
        file: where to.
        options: settings by their names as options; None and () are not given.
        source: a recipe (mergekit's or automerge's) or a mergekit-evolve file to begin with.
        force: whether to replace a file that is there.
        ask: whether to ask for what is missing.
        console: where to ask, and to say what was written.

    Raises:
        ConfigError: the file is there already, something is missing, or anything is wrong.
    """
    if file.exists() and not force:
        raise ConfigError(f"{file} exists already; name another file, or replace it with --force")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"no such folder: {file.absolute().parent}; create it first")
    given = {key: value for key, value in options.items() if value not in (None, (), [])}
    recipe: RecipeFile | None = None
    begun: Path | dict[str, Any] | None = None
    if source is not None:
        if is_evolve(load_yaml(source).data):
            begun = source
        else:
            recipe = read_recipe(source)
            begun = _from_recipe(recipe)
    missing = _missing(begun, given)
    if missing and ask:
        given |= _answers(missing, console)
    elif missing:
        flags = ", ".join(f"--{name}" for name in missing)
        raise ConfigError(
            f"missing: {flags}; give them, name a mergekit or mergekit-evolve file with --from, "
            "or run automerge init on a terminal, where it asks"
        )
    notes: tuple[str, ...] = () if recipe is None else recipe.notes
    recipes: tuple[Path, ...] = ()
    config = load_with_options(begun, given)
    if recipe is not None and source is not None and isinstance(begun, dict):
        try:
            recipe.among(config.references, config.align)
            config = load_with_options({**begun, "recipes": [str(source.absolute())]}, given)
            recipes = (source,)
        except ConfigError as error:
            notes = (*notes, f"the recipe itself is not measured: {error.faults[0].message}")
    write_atomically(file.with_name(FILE), SHIPPED.read_text(encoding="utf-8"))
    write_atomically(file, starter(config, file, recipes, (*config.notes, *notes)))
    _say_what_next(file, config, console)


def _from_recipe(recipe: RecipeFile) -> dict[str, Any]:
    """Return the study of a recipe's models."""
    models = dict(recipe.models)
    base = None if recipe.recipe.base is None else models.pop(recipe.recipe.base, None)
    named = {("source" if name == BASE else name): text for name, text in models.items()}
    align = {("source" if n == BASE else n): how for n, how in recipe.align.items() if n in models}
    begun = {"base": base, "models": named, "align": align}
    return {key: value for key, value in begun.items() if value}


def _missing(begun: Path | dict[str, Any] | None, given: Mapping[str, Any]) -> list[str]:
    """Return the required options that neither options nor the file to begin with give."""
    if isinstance(begun, Path):
        return []
    known = {"model" if key == "models" else key for key in begun or ()}
    return [name for name in REQUIRED if name not in known and name not in given]


def _answers(missing: list[str], console: Console) -> dict[str, Any]:
    """Ask for options until each answer can be used."""
    say(console, "Answers become an automerge.yaml, which you can edit. Ctrl-C writes nothing.")
    found: dict[str, Any] = {}
    if "base" in missing:
        found["base"] = _model(console, "Base model (a folder, or a hub id such as org/name)")
    if "model" in missing:
        found["model"] = []
        question = "A fine-tune of it, as MODEL or NAME=MODEL"
        while text := _model(console, question, optional=bool(found["model"])):
            found["model"].append(text)
            question = "One more (or just Enter)"
    if "task" in missing:
        while not found.get("task"):
            text = _line(console, "lm-eval tasks to be good at, such as gsm8k arc_easy")
            found["task"] = re.split(r"[\s,]+", text.strip(" ,")) if text else []
    return found


def _model(console: Console, question: str, optional: bool = False) -> str:
    """Ask for a model until the answer is one, or empty where that is an answer."""
    while True:
        text = _line(console, question)
        if not text and optional:
            return ""
        try:
            resolve(split_name(text, Path.cwd())[1], Path.cwd())
        except ValueError as error:
            say(console, f"  {error}")
        else:
            return text


def _line(console: Console, question: str) -> str:
    say(console, f"{question}: ", end="")
    try:
        return input().strip()
    except EOFError:
        raise ConfigError(
            "input ended before every question was answered; nothing was written"
        ) from None


def _say_what_next(file: Path, config: StudyConfig, console: Console) -> None:
    name = "" if str(file) == "automerge.yaml" else f" {file}"
    models, objectives = ", ".join(config.models), ", ".join(task.name for task in config.tasks)
    say(console, f"wrote {file}: models {models}; objectives {objectives}")
    say(console, f"next: automerge search{name} --dry-run says what the search will cost;")
    say(console, f"      automerge search{name} runs it")
