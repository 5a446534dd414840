"""lm-eval's index of task names, as small as the study allows, and the files behind a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


def task_manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    """Index the study's own folder, and lm-eval's 14,000 names only when one of them is needed."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        manager = TaskManager(include_path=str(include_path), include_defaults=False)
        if all(_complete(manager, name) for name in names):
            return manager
    path = None if include_path is None else str(include_path)
    return TaskManager(include_path=path)


def _complete(manager: TaskManager, name: str) -> bool:
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    children = (entry.cfg or {}).get("task")
    if not isinstance(children, list):
        return True
    return all(_complete(manager, item) for item in children if isinstance(item, str))


def own_files(manager: TaskManager, name: str) -> list[Path]:
    """Task files a name leads to, outside lm-eval's own package."""
    import lm_eval.tasks

    package = Path(lm_eval.tasks.__file__).resolve().parent
    files: dict[Path, None] = {}
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        entry = manager.task_index.get(name)
        if entry is None or name in seen:
            continue
        seen.add(name)
        if entry.yaml_path is None:
            waiting += sorted(entry.tags)
        elif not Path(entry.yaml_path).resolve().is_relative_to(package):
            files[Path(entry.yaml_path)] = None
        waiting += _named_in((entry.cfg or {}).get("task"))
    return list(files)


def _named_in(children: object) -> list[str]:
    """Names of the tasks and groups a group's `task:` list holds, however nested."""
    if isinstance(children, str):
        return [children]
    if isinstance(children, Mapping):
        return _named_in(children.get("task")) + _named_in(children.get("group"))
    if isinstance(children, list):
        return [name for item in children for name in _named_in(item)]
    return []


def known_metrics() -> frozenset[str]:
    """Metrics that are lm-eval's own."""
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import metric_registry

    return frozenset(metric_registry.keys())


def unreadable(folder: Path | None) -> str:
    """Say which task file of a folder cannot be read, which lm-eval passes over in silence."""
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(folder.glob("**/*.yaml")) if folder is not None else ():
        try:
            load_yaml(path, resolve_func=False)
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            return f"; {path} cannot be read: {error}"
    return ""
