"""Write merged models as folders that load anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.recipe import BASE
from automerge.report.card import model_card
from automerge.report.files import write_atomically
from automerge.report.model import MODELS
from automerge.results import open_study

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.checkpoints import Checkpoint
    from automerge.recipe import Recipe
    from automerge.report.model import StudyResult


def export_models(
    run: Path, result: StudyResult, numbers: Sequence[int], console: Console | None
) -> list[Path]:
    """Write RUN/models/NAME for some trials; return the folders.

    A folder that is there was written whole, so only its card is written anew. Raises
    PreflightError when the disk refuses or a model is gone.
    """
    trials = {found.trial.number: found for found in result.trials}
    folders = {number: run / MODELS / trials[number].trial.name for number in numbers}
    missing = [number for number, folder in folders.items() if not folder.is_dir()]
    if missing:
        checkpoints, references = _open_models(run)
        for number in missing:
            recipe = trials[number].trial.recipe
            write_model(recipe, checkpoints, references, folders[number], console)
    for number, folder in folders.items():
        write_atomically(folder / "README.md", model_card(result, number, folder.name))
    return list(folders.values())


def write_model(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    references: Mapping[str, str],
    folder: Path,
    console: Console | None,
) -> None:
    """Merge to a folder, with its recipe in our YAML and in mergekit's."""
    from automerge.checkpoints import is_adapter, layout
    from automerge.mergekit import mergekit_text
    from automerge.merging import merge_to_folder
    from automerge.recipe_files import recipe_text

    targets = layout(recipe, {name: checkpoints[name].tensors for name in recipe.models})
    where = [target.place for target in targets]
    adapters = [name for name in recipe.models if is_adapter(checkpoints[name].path)]
    owner = [BASE] if adapters and BASE in references else []
    used = {name: references[name] for name in dict.fromkeys([*owner, *recipe.models])}
    texts = {
        "recipe.yaml": recipe_text(recipe, used, folder.name),
        "mergekit.yaml": mergekit_text(recipe, references, where, adapters),
    }
    with _progress(console, folder.name) as progress:
        merge_to_folder(recipe, checkpoints, folder, texts=texts, progress=progress)


def _open_models(run: Path) -> tuple[Mapping[str, Checkpoint], dict[str, str]]:
    """A study's models, and how a recipe names them: a folder, or a hub id with its commit."""
    from automerge.checkpoints import open_together

    with open_study(run) as store:
        origins = store.meta("models")
    folders: dict[str, Path] = {}
    references: dict[str, str] = {}
    for origin in origins:
        name, path = origin["name"], Path(origin["path"])
        folders[name] = path
        repository = origin["reference"].partition("@")[0]
        references[name] = f"{repository}@{origin['revision']}" if origin["revision"] else str(path)
    return open_together(folders, BASE), references


@contextmanager
def _progress(console: Console | None, name: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over a model's tensors, on a terminal."""
    if console is None or not console.is_terminal:
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"writing {name}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
