"""A zoo small enough to ship: one base, sources fine-tuned from it, and a task per source.

The models and the items are made by `experiments/demo_zoo` in the repository; its README holds
the scores.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import yaml


def folder() -> Path:
    """The installed demo: `base`, `sources` and `tasks` lie in it."""
    return Path(__file__).resolve().parent


BASE: Final[Path] = folder() / "base"
SOURCES: Final[dict[str, Path]] = {
    name: folder() / "sources" / name for name in ("arithmetic", "clock", "median", "facts")
}
TASKS: Final[tuple[str, ...]] = tuple(f"demo_{name}" for name in SOURCES)


def materialise_tasks(target: Path) -> Path:
    """Copy the tasks into `target` so that lm-eval finds their items from any directory.

    lm-eval passes `data_files` to `datasets.load_dataset`, which reads a relative path against
    the current directory, not against the YAML file. The copies hold absolute paths.
    """
    target = target.resolve()
    target.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        items = target / f"{task}.jsonl"
        shutil.copyfile(folder() / "tasks" / items.name, items)
        settings = yaml.safe_load((folder() / "tasks" / f"{task}.yaml").read_text("utf-8"))
        settings["dataset_kwargs"]["data_files"] = {"test": str(items)}
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (target / f"{task}.yaml").write_text(text, "utf-8")
    return target
