"""Load the lm-eval tasks a study names, once, and resolve its objectives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.errors import PreflightError, nearest
from automerge.evaluation.base import Settings, TaskFault, TasksRefused, default_name
from automerge.evaluation.lm_eval import stock_names
from automerge.evaluation.lm_eval.cage.launch import caging_fault
from automerge.evaluation.lm_eval.code_eval import replaced, runs_code_caged
from automerge.evaluation.lm_eval.dataset_splits import on_splits, split_faults
from automerge.evaluation.lm_eval.isolation import FEWSHOT_SEED, isolated
from automerge.evaluation.lm_eval.metrics import resolve
from automerge.evaluation.lm_eval.task_code import ADVICE, find_code, guarded
from automerge.evaluation.lm_eval.task_errors import raised_at
from automerge.evaluation.lm_eval.task_index import own_files, own_index, task_manager
from automerge.evaluation.lm_eval.task_python import code_digest
from automerge.evaluation.lm_eval.task_yaml import FAILURES
from automerge.evaluation.split import document_hash
from automerge.objective import Direction, Objective
from automerge.text.error import cause, first_line
from automerge.trial import Part

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class TaskSpec:
    """One objective as the user wrote it.

    `task` is an lm-eval task, group or tag. `metric` is lm-eval's key with or without its filter
    ("acc", "exact_match,strict-match"); None is the task's first. A `direction` of None is the
    task's own. `split` names the dataset splits that parts come from, if not the one that lm-eval
    scores. An objective that is not a `goal` only serves constraints.
    """

    task: str
    metric: str | None = None
    direction: Direction | None = None
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    split: Mapping[Part, str] = field(default_factory=dict)
    goal: bool = True


@dataclass(frozen=True, eq=False)
class TaskSet:
    """Loaded leaf tasks and the objectives over them.

    `members` maps an objective's name to the leaf tasks whose items it has. `parts` are those that
    the documents of a leaf task may be in: a task with its own dataset splits is a leaf task on
    each of them (TASK@SPLIT), and stock lm-eval knows only the one with test items. `code` is a
    digest of the user's Python files that a leaf task's file leads to.
    """

    tasks: Mapping[str, Task]
    objectives: tuple[Objective, ...]
    members: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, tuple[Part, ...]]
    specs: tuple[TaskSpec, ...]
    settings: Settings
    code: Mapping[str, str]

    def scored(self, objective: str) -> tuple[str, ...]:
        """Return an objective's leaf tasks as stock lm-eval knows them."""
        return tuple(leaf for leaf in self.members[objective] if "test" in self.parts[leaf])

    def documents(self) -> dict[str, list[dict[str, Any]]]:
        """Return every leaf task's documents, by lm-eval's doc id."""
        with isolated():
            return {name: list(task.eval_docs) for name, task in self.tasks.items()}

    def digests(self) -> dict[str, str]:
        """Return hashes of each leaf task's configuration, documents and user's Python files."""
        return {
            name: _digest(self.tasks[name], documents, self.code[name])
            for name, documents in self.documents().items()
        }


def load_tasks(
    specs: Sequence[TaskSpec], settings: Settings, source: Path | None = None
) -> TaskSet:
    """Load the tasks as lm-eval's command line would.

    `source` is the folder whose tasks were copied to `settings.include_path`; the message about a
    task that does not exist suggests names from there.

    Raises:
        TasksRefused: with every fault found.
    """
    faults: list[TaskFault] = []
    with isolated():
        manager = task_manager([spec.task for spec in specs], settings.include_path)
        loaded: dict[tuple[str, str], list[Task]] = {}
        groups: dict[tuple[str, str], Group | None] = {}
        names: dict[tuple[str, str], tuple[str, ...]] = {}
        tasks: dict[str, Task] = {}
        parts: dict[str, tuple[Part, ...]] = {}
        code: dict[str, str] = {}
        owner: dict[str, int] = {}
        objectives: list[Objective] = []
        members: dict[str, tuple[str, ...]] = {}
        for index, spec in enumerate(specs):
            found = list(_refusals(manager, spec, settings, source))
            key = (spec.task, _how_asked(spec))
            if not found and key not in loaded:
                leaves, groups[key], found = _load_one(manager, spec, settings)
                loaded[key] = leaves
                for leaf in leaves:
                    first = owner.setdefault(leaf.task_name, index)
                    if _how_asked(specs[first]) != _how_asked(spec):
                        found.append(_conflict(leaf.task_name, specs[first], spec))
                if not found:
                    placed = [on for leaf in leaves for on in on_splits(leaf, spec.split)]
                    names[key] = tuple(task.task_name for task, _ in placed)
                    for task, own in placed:
                        tasks.setdefault(task.task_name, task)
                        parts[task.task_name] = own
                    digest = code_digest(own_files(manager, spec.task))
                    code.update(dict.fromkeys(names[key], digest))
            if not found and key not in names:
                continue  # its faults are those of the entry that came first
            if not found:
                leaves = loaded[key]
                try:
                    objective, found = resolve(spec, leaves, _name(spec, specs), groups[key])
                except Exception as error:  # whatever a task's own class may raise
                    where = raised_at(error, own_files(manager, spec.task))
                    message = (
                        f"the metrics of task {spec.task!r} are unknown{where}: {cause(error)}"
                    )
                    objective, found = None, [("metric", message)]
                if objective is not None and objective.name in members:
                    found.append(("name", f"two objectives are called {objective.name!r}"))
                elif objective is not None:
                    objectives.append(objective)
                    members[objective.name] = names[key]
            faults += [TaskFault(index, where, message) for where, message in found]
    if faults:
        raise TasksRefused(faults)
    return TaskSet(tasks, tuple(objectives), members, parts, tuple(specs), settings, code)


def _refusals(
    manager: TaskManager, spec: TaskSpec, settings: Settings, source: Path | None
) -> Iterator[tuple[str, str]]:
    if spec.task not in manager.task_index:
        yield "task", _missing(manager, spec.task, source or settings.include_path)
        return
    for path in own_files(manager, spec.task):
        try:
            found = find_code(path)
        except FAILURES as error:
            yield "task", f"task {spec.task!r} cannot be read: {first_line(error)}"
            continue
        for location, what in () if settings.allow_task_code else found:
            yield "task", f"task {spec.task!r} would run code: {what} at {location}; {ADVICE}"


def _missing(manager: TaskManager, name: str, folder: Path | None) -> str:
    """Say that there is no task of this name, which one may be meant, and which file of the folder
    cannot be read: lm-eval skips it silently."""
    own, problems = ({}, []) if folder is None else own_index(folder)
    where = "" if folder is None else f" or in {folder}"
    which = nearest(name, list(dict.fromkeys([*own, *manager.all_tasks, *stock_names.names()])))
    return "; ".join([f"there is no task {name!r} in lm-eval{where}{which}", *problems[:1]])


def _load_one(
    manager: TaskManager, spec: TaskSpec, settings: Settings
) -> tuple[list[Task], Group | None, list[tuple[str, str]]]:
    """Build a task's leaves and apply the spec's overrides, as `simple_evaluate` does."""
    own = own_files(manager, spec.task)
    allowed = settings.allow_task_code or not own
    try:
        with replaced(), guarded(settings.include_path, allowed):
            found_tasks = manager.load([spec.task])
    except PreflightError as error:
        return [], None, [("task", f"task {spec.task!r}: {error}")]
    except Exception as error:  # whatever a task's own Python, or lm-eval with its file, may raise
        where = raised_at(error, own)
        return (
            [],
            None,
            [("task", f"lm-eval cannot load task {spec.task!r}{where}: {cause(error)}")],
        )
    leaves, group = list(found_tasks["tasks"].values()), found_tasks["groups"].get(spec.task)
    found: list[tuple[str, str]] = []
    for leaf in leaves:
        found += _unusable(leaf, settings.allow_code_eval)
        found += split_faults(leaf, spec.split)
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
                    f"task {leaf.task_name!r} samples its answers, so scores vary between runs; "
                    "set do_sample: false and temperature: 0 in gen_kwargs",
                )
            )
        leaf.set_fewshot_seed(FEWSHOT_SEED)
        found += _too_few_examples(leaf)
    if not leaves:
        found.append(("task", f"{spec.task!r} does not contain any tasks"))
    if spec.gen_kwargs and not any(
        leaf.get_config("output_type") == "generate_until" for leaf in leaves
    ):
        found.append(
            ("gen_kwargs", f"task {spec.task!r} does not generate text; remove gen_kwargs")
        )
    return leaves, group, found


def _unusable(leaf: Task, allow_code_eval: bool) -> Iterator[tuple[str, str]]:
    if getattr(leaf, "UNSAFE_CODE", False):
        runs = f"task {leaf.task_name!r} runs code that the model wrote"
        if not runs_code_caged(leaf):
            yield (
                "task",
                f"{runs}, but not through lm-eval's code_eval, which automerge cannot sandbox",
            )
        elif not allow_code_eval:
            yield (
                "task",
                f"{runs}; allow_code_eval runs it in a sandbox, without network or files",
            )
        elif fault := caging_fault():
            yield "task", fault
    if getattr(leaf, "MULTIMODAL", False):
        yield "task", f"task {leaf.task_name!r} needs images or sound; automerge scores text only"


def _too_few_examples(leaf: Task) -> Iterator[tuple[str, str]]:
    """Yield a fault if there are fewer documents to draw examples from than are shown."""
    shots = leaf.get_config("num_fewshot") or 0
    if not shots or not hasattr(leaf, "sampler"):
        return
    donors = len(leaf.sampler.fewshot_docs())
    # lm-eval draws one more if the document itself may be among them.
    own = leaf.fewshot_cfg.split == leaf.get_config("test_split")
    if donors < shots + own:
        yield (
            "num_fewshot",
            f"task {leaf.task_name!r} shows {shots} examples, but there are only {donors} "
            f"documents to draw them from; lower num_fewshot to at most {max(0, donors - own)}",
        )


def _how_asked(spec: TaskSpec) -> str:
    asked = [spec.num_fewshot, dict(spec.gen_kwargs), dict(spec.split)]
    return json.dumps(asked, sort_keys=True, default=str)


def _conflict(leaf: str, first: TaskSpec, second: TaskSpec) -> tuple[str, str]:
    fields = ("num_fewshot", "gen_kwargs", "split")
    where = next(name for name in fields if getattr(first, name) != getattr(second, name))
    return where, (
        f"task {leaf!r} is configured twice, with {where} {getattr(first, where)!r} and "
        f"{getattr(second, where)!r}; use one setting per task in a study"
    )


def _name(spec: TaskSpec, specs: Sequence[TaskSpec]) -> str:
    if spec.name is not None:
        return spec.name
    alone = sum(other.task == spec.task for other in specs) == 1
    return default_name(spec.task, spec.metric, alone)


def _named(value: object) -> object:
    """Return a value as text without memory addresses, which differ between processes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    name = getattr(value, "__qualname__", None)
    return str(name) if name is not None else re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _digest(task: Task, documents: Sequence[object], code: str) -> str:
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    config.pop("dataset_kwargs", None)  # paths; the documents themselves are hashed
    text = json.dumps(config, sort_keys=True, default=_named)
    content = "".join(document_hash(document) for document in documents)
    return hashlib.sha256(f"{text}\0{content}{code}".encode()).hexdigest()
