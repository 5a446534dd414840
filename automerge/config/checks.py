"""Whether names, tasks, recipes and constraints of a configuration go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from automerge.config.section import KEY, Problem
from automerge.config.sections import Group, NamedRecipe
from automerge.config.task import Task
from automerge.constraint import BEST_PARENT, Constraint
from automerge.errors import nearest
from automerge.files.align import ACTIVATION_MATCHING
from automerge.files.noise import is_noise
from automerge.files.references import NAME
from automerge.methods import METHODS
from automerge.objective import MEASURED
from automerge.recipe import DEFAULT
from automerge.trial import is_proposed_name

if TYPE_CHECKING:
    from automerge.config.settings import StudyConfig

RESERVED = ("base", DEFAULT, "uniform", BEST_PARENT)
MAX_NAME_LENGTH = 200
NAME_RULE = "letters, digits, '_', '.' and '-', beginning with a letter or digit"


def model_faults(models: Mapping[str, str], base: str | None) -> Iterator[Problem]:
    """Yield what is wrong with models' names, and models that are listed twice.

    Args:
        models: reference by name.
        base: the base's reference; None if it is not known.
    """
    first = {} if base is None else {base: "the base"}
    if base is not None and is_noise(base):
        yield (), "the base cannot be noise, which is added to it; name a model"
    if models and all(map(is_noise, models.values())):
        yield (), "all sources are noise; name at least one fine-tune of the base"
    for name, reference in models.items():
        if not NAME.fullmatch(name):
            yield (name, KEY), f"{name!r} is not a valid name: use {NAME_RULE}"
        elif name in RESERVED or is_proposed_name(name):
            yield (name, KEY), f"{name!r} is reserved; choose another name"
        if reference in first:
            yield (name,), f"{reference} is already {first[reference]}; list each model once"
        first.setdefault(reference, f"the model {name!r}")


def task_faults(tasks: Sequence[Task]) -> Iterator[Problem]:
    """Yield objectives' names that occur again or are those of properties."""
    names: set[str] = set()
    for i, task in enumerate(tasks):
        if task.name in names:
            yield (i,), f"two objectives are named {task.name!r}; give one a different `name`"
        elif task.name in MEASURED:
            yield (i,), f"{task.name!r} is the name of a property; set a different `name`"
        names.add(task.name)


def recipe_faults(recipes: Sequence[NamedRecipe], models: Sequence[str]) -> Iterator[Problem]:
    """Yield faults of recipes' names, which become those of trials and of model folders."""
    names = {*RESERVED, *models}
    for i, recipe in enumerate(recipes):
        name = recipe.name
        if not NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
            yield (i,), f"{name!r} is not a valid recipe name: use {NAME_RULE}"
        elif name in names or is_proposed_name(name):
            yield (i,), f"another trial is named {name!r}; rename the recipe's file"
        names.add(name)


def constraint_faults(
    texts: Sequence[str], objectives: Sequence[str], models: Sequence[str]
) -> Iterator[Problem]:
    """Yield constraints that cannot be read, or that name an unknown objective or model."""
    references = (BEST_PARENT, "base", "uniform", *models)
    for i, text in enumerate(texts):
        try:
            found = Constraint.parse(text)
        except ValueError as error:
            yield (i,), str(error)
            continue
        if found.objective not in objectives:
            advice = nearest(found.objective, objectives)
            yield (i,), f"there is no objective {found.objective!r}{advice}"
        if found.reference not in (None, *references):
            advice = nearest(str(found.reference), references)
            yield (i,), f"there is no model {found.reference!r}{advice}"


def group_faults(groups: Sequence[Group], tasks: Sequence[Task]) -> Iterator[Problem]:
    """Yield groups' names that occur again, and tasks that they cannot have.

    Groups that share some of their tasks only would be neither independent nor alike.
    """
    by_name = {task.name: task for task in tasks}
    names = {*by_name, *MEASURED}
    whole: dict[str, frozenset[str]] = {}
    for i, group in enumerate(groups):
        if group.name in names:
            yield (i, "name"), f"another objective is named {group.name!r}; choose another name"
        names.add(group.name)
        key = "mean" if group.mean else "worst"
        own = frozenset(group.members)
        for name in group.members:
            if name not in by_name:
                yield (i, key), f"there is no task {name!r}{nearest(name, tuple(by_name))}"
            elif by_name[name].held_out:
                yield (i, key), f"{name!r} is held out, so no group can have it; remove one"
            elif whole.setdefault(name, own) != own:
                problem = (
                    f"{name!r} is in another group with other tasks; "
                    "give both groups the same tasks, or none in common"
                )
                yield (i, key), problem


def goal_faults(
    tasks: Sequence[Task], constraints: Sequence[str], groups: Sequence[Group] = ()
) -> Iterator[Problem]:
    """Yield tasks without a use, held-out ones that a constraint uses, and the lack of any goal."""
    grouped = {name for group in groups for name in group.members}
    bound = {Constraint.parse(text).objective for text in constraints}
    for i, task in enumerate(tasks):
        if task.held_out and task.name in bound:
            problem = (
                f"{task.name!r} is held out, so no constraint can be checked by it; remove one"
            )
            yield ("tasks", i), problem
        elif not task.goal and not task.held_out and task.name not in bound | grouped:
            problem = (
                f"{task.name!r} is neither a goal nor named by a constraint or a group; remove it"
            )
            yield ("tasks", i), problem
    if not groups and not any(task.is_optimised for task in tasks):
        yield ("tasks",), "no task is a goal: there is nothing to search for"


def evidence_faults(config: StudyConfig) -> list[Problem]:
    """List what needs a text that a study does not have, and what is wrong with its texts."""
    search, evidence = config.search, config.evidence
    one_text = evidence is not None and isinstance(evidence.text, str)
    problems: list[Problem] = [
        (("search", "methods", i), f"{name} needs evidence: set `evidence: {{text: FILE}}`")
        for i, name in enumerate(search.methods)
        if METHODS[name].needs and evidence is None
    ]
    if config.hidden_gates and evidence is None:
        problem = "hidden gates need evidence: set `evidence: {text: FILE}`"
        problems.append((("search", "layers", "mixture", "gates"), problem))
    problems += [
        (("align", name), f"{text} needs text: set `evidence: {{text: FILE}}`")
        for name, text in config.align.items()
        if text == ACTIVATION_MATCHING and evidence is None
    ]
    if search.layers.experts is not None and not one_text:
        problem = "experts are grouped by one text for all sources: set `evidence: {text: FILE}`"
        problems.append((("search", "layers", "experts"), problem))
    if search.calibrate and not one_text:
        problem = "calibration needs one text for all sources: set `evidence: {text: FILE}`"
        problems.append((("search", "calibrate"), problem))
    if search.calibrate and config.noise:
        problem = f"merges with noise ({', '.join(config.noise)}) are not calibrated: remove one"
        problems.append((("search", "calibrate"), problem))
    if search.calibrate and config.evaluation.dtype != "auto":
        problem = "merges are calibrated in the default dtype: remove evaluation.dtype"
        problems.append((("search", "calibrate"), problem))
    if evidence is not None and isinstance(evidence.text, dict):
        named = tuple(evidence.text)
        problems += [
            (("evidence", "text", name), f"no source {name!r}{nearest(name, config.trained)}")
            for name in named
            if name not in config.trained
        ]
        if lacking := [name for name in config.trained if name not in named]:
            problem = f"no text for {', '.join(lacking)}: name one per source, or one for all"
            problems.append((("evidence", "text"), problem))
    return problems
