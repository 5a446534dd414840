"""Load the lm-eval tasks a study names, once, and resolve its objectives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.errors import Fault, PreflightError, nearest
from automerge.evaluation.isolation import FEWSHOT_SEED, isolated
from automerge.evaluation.split import document_hash
from automerge.evaluation.task_code import find_code
from automerge.objective import AGGREGATIONS, Aggregation, Direction, Objective

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class TaskSpec:
    """One objective as the user wrote it.

    `task` is an lm-eval task, group or tag; `metric` is lm-eval's key with or without its filter
    ("acc", "exact_match,strict-match"), None the task's first; `direction` None is the task's own.
    """

    task: str
    metric: str | None = None
    direction: Direction | None = None
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class TaskSettings:
    """What holds for every task of a study; names follow lm-eval's command line.

    `allow_task_code` lets task files outside lm-eval's own package run Python.
    """

    include_path: Path | None = None
    allow_task_code: bool = False
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None

    @property
    def multiturn(self) -> bool:
        """lm-eval's default: several turns wherever a chat template is applied."""
        if self.fewshot_as_multiturn is None:
            return self.apply_chat_template
        return self.fewshot_as_multiturn


@dataclass(frozen=True, order=True)
class TaskFault:
    """What is wrong with one field of the spec at an index."""

    spec: int
    field: str
    message: str


class TasksRefused(PreflightError):
    """Tasks that cannot be used; `task_faults` says which spec and field."""

    def __init__(self, task_faults: Sequence[TaskFault]) -> None:
        self.task_faults = tuple(task_faults)
        super().__init__([Fault(fault.message) for fault in task_faults])

    def __reduce__(self) -> tuple[type[TasksRefused], tuple[tuple[TaskFault, ...]]]:  # type: ignore[override]
        return TasksRefused, (self.task_faults,)


@dataclass(frozen=True, eq=False)
class TaskSet:
    """Loaded leaf tasks and the objectives over them.

    `members` maps objective names to leaf tasks; a group's items are pooled over its leaves.
    """

    tasks: Mapping[str, Task]
    objectives: tuple[Objective, ...]
    members: Mapping[str, tuple[str, ...]]
    specs: tuple[TaskSpec, ...]
    settings: TaskSettings

    def documents(self) -> dict[str, list[dict[str, Any]]]:
        """Every leaf task's documents, by lm-eval's doc id."""
        with isolated():
            return {name: list(task.eval_docs) for name, task in self.tasks.items()}

    def digests(self) -> dict[str, str]:
        """Hashes of each leaf task's configuration and documents."""
        return {
            name: _digest(self.tasks[name], documents)
            for name, documents in self.documents().items()
        }


def check_tasks(specs: Sequence[TaskSpec], settings: TaskSettings) -> list[TaskFault]:
    """All that is wrong with the tasks, found without a model; empty when they can be used."""
    return _load(specs, settings)[1]


def load_tasks(specs: Sequence[TaskSpec], settings: TaskSettings) -> TaskSet:
    """Load the tasks as lm-eval's command line would.

    Raises:
        TasksRefused: with every fault found.
    """
    task_set, faults = _load(specs, settings)
    if faults:
        raise TasksRefused(faults)
    return task_set


def _load(specs: Sequence[TaskSpec], settings: TaskSettings) -> tuple[TaskSet, list[TaskFault]]:
    faults: list[TaskFault] = []
    with isolated():
        manager = _manager(specs, settings)
        loaded: dict[tuple[str, str], list[Task]] = {}
        tasks: dict[str, Task] = {}
        owner: dict[str, int] = {}
        objectives: list[Objective] = []
        members: dict[str, tuple[str, ...]] = {}
        for index, spec in enumerate(specs):
            found = list(_refusals(manager, spec, settings))
            key = (spec.task, _how_asked(spec))
            if not found and key not in loaded:
                leaves, found = _load_one(manager, spec)
                loaded[key] = leaves
                for leaf in leaves:
                    first = owner.setdefault(leaf.task_name, index)
                    if _how_asked(specs[first]) != _how_asked(spec):
                        found.append(_conflict(leaf.task_name, specs[first], spec))
                    tasks.setdefault(leaf.task_name, leaf)
            if not found:
                leaves = loaded[key]
                objective, found = _resolve(spec, leaves, _name(spec, specs))
                if objective is not None and objective.name in members:
                    found.append(("name", f"two objectives are called {objective.name!r}"))
                elif objective is not None:
                    objectives.append(objective)
                    members[objective.name] = tuple(leaf.task_name for leaf in leaves)
            faults += [TaskFault(index, where, message) for where, message in found]
    return TaskSet(tasks, tuple(objectives), members, tuple(specs), settings), faults


def _manager(specs: Sequence[TaskSpec], settings: TaskSettings) -> TaskManager:
    """Index the study's own folder, and lm-eval's 14,000 names only when one of them is needed."""
    from lm_eval.tasks import TaskManager

    if settings.include_path is not None:
        manager = TaskManager(include_path=str(settings.include_path), include_defaults=False)
        if all(_complete(manager, spec.task) for spec in specs):
            return manager
    path = None if settings.include_path is None else str(settings.include_path)
    return TaskManager(include_path=path)


def _complete(manager: TaskManager, name: str) -> bool:
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    children = (entry.cfg or {}).get("task")
    if not isinstance(children, list):
        return True
    return all(_complete(manager, item) for item in children if isinstance(item, str))


def _refusals(
    manager: TaskManager, spec: TaskSpec, settings: TaskSettings
) -> Iterator[tuple[str, str]]:
    if spec.task not in manager.task_index:
        where = "" if settings.include_path is None else f" or in {settings.include_path}"
        yield (
            "task",
            f"lm-eval has no task {spec.task!r}{where}{nearest(spec.task, manager.all_tasks)}"
            f"{_unreadable(settings.include_path)}",
        )
        return
    if settings.allow_task_code:
        return
    for path in _own_files(manager, spec.task):
        for location, what in find_code(path, _known_metrics()):
            yield (
                "task",
                f"task {spec.task!r} would run code: {what} at {location}; read it, and if you "
                "trust it allow task code",
            )


def _own_files(manager: TaskManager, name: str) -> list[Path]:
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


def _known_metrics() -> frozenset[str]:
    import lm_eval.api.metrics  # noqa: F401  fills the registry
    from lm_eval.api.registry import metric_registry

    return frozenset(metric_registry.keys())


def _unreadable(folder: Path | None) -> str:
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(folder.glob("**/*.yaml")) if folder is not None else ():
        try:
            load_yaml(path, resolve_func=False)
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            return f"; {path} cannot be read: {error}"
    return ""


def _load_one(manager: TaskManager, spec: TaskSpec) -> tuple[list[Task], list[tuple[str, str]]]:
    """Build a task's leaves and apply the spec's overrides, as `simple_evaluate` does."""
    import datasets
    import jinja2
    import yaml

    try:
        leaves = list(manager.load([spec.task])["tasks"].values())
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        TypeError,
        ValueError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
        jinja2.TemplateError,
        yaml.YAMLError,
    ) as error:
        cause = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return [], [("task", f"lm-eval cannot load task {spec.task!r}: {cause}")]
    found: list[tuple[str, str]] = []
    for leaf in leaves:
        found += _unusable(leaf)
        generates = leaf.get_config("output_type") == "generate_until"
        if spec.gen_kwargs and generates:
            leaf.set_config(key="generation_kwargs", value=dict(spec.gen_kwargs), update=True)
        default = leaf.get_config("num_fewshot")
        if spec.num_fewshot is None:
            if default is None:
                leaf.set_config(key="num_fewshot", value=0)
        elif default == 0 and spec.num_fewshot != 0:
            found.append(
                (
                    "num_fewshot",
                    f"task {leaf.task_name!r} fixes num_fewshot at 0 and lm-eval ignores other "
                    f"values; remove num_fewshot: {spec.num_fewshot}",
                )
            )
        else:
            leaf.set_config(key="num_fewshot", value=spec.num_fewshot)
        options = leaf.get_config("generation_kwargs") or {}
        if generates and (options.get("do_sample") or options.get("temperature")):
            found.append(
                (
                    "gen_kwargs",
                    f"task {leaf.task_name!r} samples its answers, so one model gets different "
                    "scores; set gen_kwargs do_sample: false and temperature: 0",
                )
            )
        leaf.set_fewshot_seed(FEWSHOT_SEED)
    if not leaves:
        found.append(("task", f"{spec.task!r} holds no tasks"))
    if spec.gen_kwargs and not any(
        leaf.get_config("output_type") == "generate_until" for leaf in leaves
    ):
        found.append(("gen_kwargs", f"task {spec.task!r} generates nothing; remove gen_kwargs"))
    return leaves, found


def _unusable(leaf: Task) -> Iterator[tuple[str, str]]:
    if getattr(leaf, "UNSAFE_CODE", False):
        yield (
            "task",
            f"task {leaf.task_name!r} runs code that the model wrote; automerge does not run it",
        )
    if getattr(leaf, "MULTIMODAL", False):
        yield "task", f"task {leaf.task_name!r} needs images or sound; automerge scores text only"


def _resolve(
    spec: TaskSpec, leaves: Sequence[Task], name: str
) -> tuple[Objective | None, list[tuple[str, str]]]:
    found: list[tuple[str, str]] = []
    metric, _, wanted_filter = (spec.metric or "").partition(",")
    metric = metric or next(iter(leaves[0].aggregation()), "")
    filter_name = wanted_filter or filter_names(leaves[0])[0]
    for leaf in leaves:
        available = [
            f"{m},{f}" if len(filter_names(leaf)) > 1 else m
            for m in leaf.aggregation()
            for f in filter_names(leaf)
        ]
        if metric not in leaf.aggregation():
            hint = nearest(metric, list(leaf.aggregation()))
            found.append(
                (
                    "metric",
                    f"task {leaf.task_name!r} has no metric {metric!r}{hint} "
                    f"(it has {', '.join(available)})",
                )
            )
        elif filter_name not in filter_names(leaf):
            found.append(
                (
                    "metric",
                    f"task {leaf.task_name!r} has no filter {filter_name!r}"
                    f"{nearest(filter_name, filter_names(leaf))} (it has {', '.join(available)})",
                )
            )
    if found:
        return None, found
    aggregation = _common([_aggregation(leaf, metric) for leaf in leaves])
    if aggregation is None:
        found.append(
            (
                "metric",
                f"metric {metric!r} of task {spec.task!r} is not an aggregate over items that "
                f"automerge can estimate; expected one of {', '.join(AGGREGATIONS)}, got "
                f"{', '.join(sorted({_function_name(leaf, metric) for leaf in leaves}))}; "
                "choose another metric of the task",
            )
        )
    higher = _common([leaf.higher_is_better().get(metric) for leaf in leaves])
    direction: Direction = spec.direction or ("maximize" if higher else "minimize")
    if higher is None and spec.direction is None:
        found.append(
            (
                "direction",
                f"task {spec.task!r} does not say whether more {metric!r} is better; "
                "set direction: maximize or minimize",
            )
        )
    if found or aggregation is None:
        return None, found
    return Objective(name, spec.task, metric, filter_name, direction, aggregation), []


def filter_names(task: Task) -> list[str]:
    """Names of a task's filter pipelines, in lm-eval's order."""
    return [ensemble.name for ensemble in task._filters]


def _aggregation(task: Task, metric: str) -> Aggregation | None:
    from lm_eval.api.registry import get_aggregation

    function = task.aggregation()[metric]
    return next((name for name in AGGREGATIONS if get_aggregation(name) is function), None)


def _function_name(task: Task, metric: str) -> str:
    function = task.aggregation()[metric]
    return str(getattr(function, "__name__", function))


def _common(values: Sequence[Any]) -> Any:
    """The value all share, else None."""
    return values[0] if all(value == values[0] for value in values) else None


def _how_asked(spec: TaskSpec) -> str:
    return json.dumps([spec.num_fewshot, dict(spec.gen_kwargs)], sort_keys=True, default=str)


def _conflict(leaf: str, first: TaskSpec, second: TaskSpec) -> tuple[str, str]:
    where = "num_fewshot" if first.num_fewshot != second.num_fewshot else "gen_kwargs"
    return where, (
        f"task {leaf!r} is asked with two settings, {where} {getattr(first, where)!r} and "
        f"{getattr(second, where)!r}; a task has one setting in a study"
    )


def _name(spec: TaskSpec, specs: Sequence[TaskSpec]) -> str:
    if spec.name is not None:
        return spec.name
    alone = sum(other.task == spec.task for other in specs) == 1
    return spec.task if alone or spec.metric is None else f"{spec.task}/{spec.metric}"


def _digest(task: Task, documents: Sequence[object]) -> str:
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    config.pop("dataset_kwargs", None)  # paths; the documents themselves are hashed
    text = json.dumps(config, sort_keys=True, default=str)
    content = "".join(document_hash(document) for document in documents)
    return hashlib.sha256(f"{text}\0{content}".encode()).hexdigest()
