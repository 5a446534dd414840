"""A study's configuration → the YAML that its run folder keeps, which `load_config` reads again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.config.recipe_file import recipe_text
from automerge.config.search import as_written
from automerge.config.settings import StudyConfig
from automerge.evaluation.base import ITEMS_FOLDER, TASKS_FOLDER
from automerge.files.known import is_known, known_reference
from automerge.files.shared import HERE, shared_name
from automerge.files.yaml_file import dump_yaml
from automerge.objective import KL_TO_BASE
from automerge.text.redaction import without_secrets

FILE = "automerge.yaml"
RECIPES = "recipes"

_HEAD = (
    "# The study as automerge ran it; `automerge search` with this file resumes it. Paths are\n"
    "# relative to this file; `local:` names a model that lies elsewhere by its content's digest.\n"
)


def written(config: StudyConfig, run: Path, digests: Mapping[str, str]) -> dict[str, str]:
    """Return the study's YAML and the recipes it names: texts by their paths in the run folder.

    Args:
        config: the settings.
        run: the run folder, whose copies of tasks and items are named if they are there.
        digests: of base and sources.
    """
    shared = config.shared(run)
    plain: dict[str, Any] = shared.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    references = {"base": plain.pop("base"), **plain.pop("models")}
    for name, text in references.items():
        if is_known(text):
            references[name] = known_reference(name, digests[name])
    texts: dict[str, str] = {}
    for named in shared.recipes:
        texts[f"{RECIPES}/{named.name}.yaml"] = recipe_text(named.recipe, {}, named.name)
    plain |= {"recipes": list(texts)} if texts else {}
    if config.include_path is not None and (run / TASKS_FOLDER).is_dir():
        plain["include_path"] = f"{HERE}{TASKS_FOLDER}"
    if "extensions" in plain:
        plain["extensions"] = list(plain["extensions"])
    if config.evidence is not None:
        plain["evidence"]["text"] = config.evidence.named_by(lambda file: shared_name(file, run))
    files = plain.pop("item_files", {})
    for task in plain["tasks"]:
        if (own := files.get(task["name"])) is not None:
            task["items"] = _items(run, task["name"], own)
    if KL_TO_BASE in files:
        text = {KL_TO_BASE: files[KL_TO_BASE]}
        plain["properties"] = [text if n == KL_TO_BASE else n for n in shared.properties]
    if "search" in plain:
        plain["search"] = as_written(plain["search"])
    order = {"name": plain.pop("name"), "base": references.pop("base"), "models": references}
    text = dump_yaml(without_secrets({**order, **plain}))
    return {**texts, FILE: _HEAD + text}


def _items(run: Path, name: str, own: str) -> str:
    from automerge.evaluation.python.evaluator import items_file

    copied = items_file(run, name)
    return f"{HERE}{ITEMS_FOLDER}/{copied.name}" if copied.is_file() else own
