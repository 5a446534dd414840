"""Keep task files from running Python that nobody allowed.

The composed YAML of a file is searched for what it would run, to report where that stands. The
decision is made elsewhere: while a task is loaded, the functions by which lm-eval imports Python,
fetches metrics and opens data refuse what was not allowed, however the files ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from automerge.errors import Location, PreflightError
from automerge.evaluation.lm_eval.task_data import Opener
from automerge.evaluation.lm_eval.task_index import is_stock
from automerge.evaluation.lm_eval.task_yaml import all_nodes, child, with_includes

STANDARD_TAGS = "tag:yaml.org,2002:"
ADVICE = "read it, and allow task code if you trust it"


def find_code(path: Path) -> list[tuple[Location, str]]:
    """Find where a task file, or a file it includes, would run code, and what code.

    Raises:
        Unreadable, yaml.YAMLError: a file is not a task file.
        OSError: a file cannot be read.
    """
    known = known_metrics()
    found: list[tuple[Location, str]] = []
    for file, root in with_includes(path).items():
        for node, what in _code(root, known):
            mark = node.start_mark
            found.append((Location(str(file), mark.line + 1, mark.column + 1), what))
    return found


def known_metrics() -> frozenset[str]:
    """Return lm-eval's own metrics."""
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import metric_registry

    return frozenset(metric_registry.keys())


def _code(root: yaml.Node | None, known: frozenset[str]) -> Iterator[tuple[yaml.Node, str]]:
    prompt = child(root, "use_prompt")
    if prompt is not None:
        yield prompt, "use_prompt, which reads prompts by Python"
    judged = child(root, "process_results") is not None
    for node in all_nodes(root):
        if not node.tag.startswith(STANDARD_TAGS):
            yield node, f"{node.tag} {node.value if isinstance(node.value, str) else ''}".strip()
        if not isinstance(node, yaml.MappingNode):
            continue
        trusted = child(node, "trust_remote_code")
        if isinstance(trusted, yaml.ScalarNode) and trusted.value.lower() in ("true", "yes", "on"):
            yield trusted, "trust_remote_code"
        metric, fetched = child(node, "metric"), child(node, "hf_evaluate")
        if isinstance(metric, yaml.ScalarNode) and metric.tag.startswith(STANDARD_TAGS):
            if fetched is not None and fetched.value not in ("false", "False", "no", "off"):
                yield metric, f"metric {metric.value!r} loaded by Hugging Face evaluate"
            elif metric.value not in known and not judged:
                yield metric, f"metric {metric.value!r}, which lm-eval does not know"


@contextmanager
def guarded(include_path: Path | None, allowed: bool) -> Iterator[None]:
    """Load a user's tasks inside; their Python is imported only if it is `allowed`.

    Data that task files name relative to the run folder, which holds `include_path`, is found
    there.

    Raises:
        PreflightError: a task does something that is not allowed.
    """
    from lm_eval.api import task as lm_eval_task
    from lm_eval.tasks import _yaml_loader

    import_function, get_metric = _yaml_loader._import_func_in_yml, lm_eval_task.get_metric
    download = lm_eval_task.ConfigurableTask.download
    opener = Opener(None if include_path is None else include_path.absolute(), allowed)

    def import_allowed(qualified: str, folder: Path) -> Any:
        if not allowed and not is_stock(folder):
            raise PreflightError(f"it would run code: !function {qualified} in {folder}; {ADVICE}")
        return import_function(qualified, folder)

    def get_known(name: str, hf_evaluate_metric: bool = False) -> Any:
        if not allowed and (hf_evaluate_metric or name not in known_metrics()):
            raise PreflightError(
                f"it would run code: metric {name!r} loaded by Hugging Face evaluate; {ADVICE}"
            )
        return get_metric(name, hf_evaluate_metric)

    def open_data(task: Any, dataset_kwargs: dict[str, Any] | None = None, **more: Any) -> None:
        task.DATASET_PATH, wanted = opener.resolve(task.DATASET_PATH, dataset_kwargs)
        download(task, wanted, **more)

    ours: list[tuple[Any, str, Any]] = [
        (_yaml_loader, "_import_func_in_yml", import_allowed),
        (lm_eval_task, "get_metric", get_known),
        (lm_eval_task.ConfigurableTask, "download", open_data),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in ours]
    try:
        for owner, name, function in ours:
            setattr(owner, name, function)
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
