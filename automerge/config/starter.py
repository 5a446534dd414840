"""A study's first configuration: YAML with comments that say what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automerge.config.schema import EDITOR_LINE
from automerge.config.search import as_written
from automerge.config.settings import StudyConfig
from automerge.config.task import Task
from automerge.evaluation.base import default_name
from automerge.files.references import is_local
from automerge.files.shared import near
from automerge.files.yaml_file import Plain, dump_yaml
from automerge.text.wrapped import hanging

WIDTH = 98
"""Columns of a line of comments."""


@dataclass(frozen=True)
class _Key:
    """A key of the file: what it means, and its default as YAML ("" if there is none)."""

    name: str
    meaning: str
    default: str = ""


KEYS = (
    _Key(
        "base",
        "The model that the others are fine-tunes of: a folder, or a hub id (org/name, "
        "org/name@revision).",
    ),
    _Key(
        "models",
        "The fine-tunes to merge, by names of your choice: whole models or LoRA adapters.",
    ),
    _Key("include_path", "A folder with your own lm-eval tasks."),
    _Key(
        "tasks",
        "What the merge should be good at: lm-eval tasks, as TASK, TASK:METRIC or a mapping.",
    ),
    _Key(
        "budget",
        "How many merges to measure. Instead, or as well: max_time: 8h, max_items: 100000.",
        "200",
    ),
    _Key("recipes", "Recipes that are measured first: automerge's or mergekit's YAML files."),
    _Key(
        "constraints",
        'What must not get worse, such as "arc_easy >= best_parent - 0.01".',
        "[]",
    ),
    _Key("properties", "More objectives, for free: parameters, distance_to_base.", "[]"),
    _Key(
        "search",
        "What is searched: methods of docs/methods.md, and how weights vary over the layers. "
        "layers: {drop: 4} looks for smaller models.",
        "\n  methods: [linear, task_arithmetic, ties, dare_ties]\n  depth: {knots: 3}",
    ),
    _Key("apply_chat_template", "Wrap prompts in the base's chat template.", "false"),
    _Key("fewshot_as_multiturn", "Few-shot examples as turns of a chat."),
    _Key(
        "allow_code_eval",
        "Let tasks such as humaneval and mbpp run code that models write, in a sandbox (Linux).",
        "false",
    ),
    _Key(
        "evaluation",
        "How candidates are scored. device: auto takes a GPU if there is one.",
        "\n  device: auto\n  batch_size: 32\n  items_per_candidate: 200",
    ),
    _Key(
        "executor",
        "local: in this process. ray: a worker per GPU, on one or more machines.",
        "local",
    ),
    _Key(
        "export",
        "Which models to write at the end: best (the one to take), front, knee, adapter or none.",
        "best",
    ),
)
"""In the order of the file; what a configuration leaves alone follows as a comment, if it has a
default that is worth knowing."""

_HEAD = (
    "A study for automerge. `automerge search {file}` runs it, and resumes it after a stop; with "
    "--dry-run it only says what the study would cost. All keys: docs/configuration.md. Relative "
    "paths are relative to this file."
)


def starter(
    config: StudyConfig, file: Path, recipes: Sequence[Path] = (), notes: Sequence[str] = ()
) -> str:
    """Return a configuration as YAML that `load_config` reads as the same study, with comments.

    Settings that are left at their defaults are comments without a space after the `#`.

    Args:
        config: the settings, of which `name` and `out` follow from the file.
        file: where the text will lie; local models near it are named relative to its folder.
        recipes: the files of the recipes that the configuration has.
        notes: what else to say at the top.
    """
    plain = _plain(config, file.absolute().parent, recipes)
    given = tuple(plain)
    blocks = [_prose(_HEAD.format(file=file.name)), *map(_prose, notes)]
    blocks += [
        _prose(key.meaning) + dump_yaml({key.name: plain.pop(key.name)}, block=True)
        for key in KEYS
        if key.name in plain
    ]
    if plain:
        blocks.append(dump_yaml(plain, block=True))
    blocks.append(_prose("Everything below is at its default; remove the # to change it."))
    blocks += [
        _prose(key.meaning) + _comment(f"{key.name}: {key.default}")
        for key in KEYS
        if key.name not in given and key.default
    ]
    return EDITOR_LINE + "\n".join(blocks)


def _plain(config: StudyConfig, folder: Path, recipes: Sequence[Path]) -> dict[str, Plain]:
    """Return what is not left at its default, as a user would write it."""
    plain: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    for key in ("name", "out", "item_files", "recipes"):
        plain.pop(key, None)
    plain["base"] = _beside(config.base, folder)
    plain["models"] = {name: _beside(text, folder) for name, text in config.models.items()}
    plain["tasks"] = list(_tasks(config.tasks))
    plain["budget"] = config.budget
    if config.include_path is not None:
        plain["include_path"] = _beside(config.include_path, folder)
    if recipes:
        plain["recipes"] = [_beside(str(path.absolute()), folder) for path in recipes]
    if "search" in plain:
        plain["search"] = as_written(plain["search"])
    return plain


def _beside(reference: str, folder: Path) -> str:
    """Return a reference as a file in a folder has it."""
    return (near(reference, folder) or reference) if is_local(reference) else reference


def _tasks(tasks: Sequence[Task]) -> Iterator[Plain]:
    """Yield tasks, as TASK:METRIC:DIRECTION where that says it all."""
    for task in tasks:
        plain = task.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        alone = sum(other.task == task.task for other in tasks) == 1
        if plain.get("name") == default_name(task.task, task.metric, alone):
            del plain["name"]
        short = [plain[key] for key in ("task", "metric", "direction") if key in plain]
        whole = len(short) == len(plain) and ("metric" in plain or "direction" not in plain)
        yield ":".join(short) if whole else plain


def _prose(text: str) -> str:
    return "".join(f"{line}\n" for line in hanging("# ", text, WIDTH, indent="# "))


def _comment(yaml: str) -> str:
    return "".join(f"#{line.rstrip()}\n" for line in yaml.splitlines())
