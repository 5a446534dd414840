"""`automerge space`: what a search space holds, before anything is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automerge.config import StudyConfig, load_config
from automerge.config.search import Search
from automerge.errors import ConfigError
from automerge.evidence import KINDS
from automerge.files.yaml_file import dump_yaml, load_yaml
from automerge.methods import METHODS
from automerge.recipe import BASE, DEFAULT, Recipe, single, uniform_average
from automerge.samplers.random import draw
from automerge.space import Space, build_space
from automerge.space.knobs import KnobSpace
from automerge.space.method import MethodSpace
from automerge.space.named import FOLDER, is_name, purpose, space_file
from automerge.store.store import Store, exists
from automerge.study.opening import opening
from automerge.study.usual import usual_merges
from automerge.text.say import say
from automerge.trial import Measured

if TYPE_CHECKING:
    from rich.console import Console

N_SOURCES, N_LAYERS = 3, 24
"""What a space is shown for where the file says nothing of models."""
PAIR = 2
"""The number of sources that swap layers, or change places at one."""
UNKNOWN = "unknown"
"""Stands for what a space file does not say of a study."""


def show_space(named: str, n_sources: int | None, n_layers: int | None, console: Console) -> None:
    """Print dimensions, conditions, ranges, first trials, an example and the cost of a candidate.

    Args:
        named: the name of a space that ships with the package, a space file, or a study's.
        n_sources: of how many sources, where it is a space file; None for `N_SOURCES`, or two
            where they swap layers or cross over.
        n_layers: of how many layers; None for as many as the study's base has, or `N_LAYERS`.
        console: prints it.

    Raises:
        ConfigError: there is no space of this name, or with all faults of the file.
    """
    path = space_file(named) if is_name(named) else Path(named)
    is_study = not set(load_yaml(path).data) <= {*Search.model_fields, *_knob_names()}
    config = load_config(path) if is_study else _around(path, n_sources)
    if is_study and n_sources is not None:
        raise ConfigError(f"--sources is for space files; {path} is a study and names its models")
    depth = n_layers or (_n_layers(config) if is_study else None) or N_LAYERS
    space = study_space(config, depth)
    lines = [
        f"space      {named}",
        f"sources    {len(space.sources)}: {', '.join(space.sources)}",
        f"layers     {depth}",
        *_searched(space),
        *_first_trials(space, config),
        *(_cost(config) if is_study else ()),
        "example    a random draw:",
    ]
    for line in lines:
        say(console, line)
    example = space.recipe(draw(space, np.random.default_rng(config.seed)))
    say(console, dump_yaml(example.plain()).rstrip())


def list_spaces(folder: Path | None, console: Console) -> None:
    """Print every space file of a folder, with its dimensions and what its comment says it is for.

    Args:
        folder: holds the files; None for the spaces that ship with the package.
        console: prints it.

    Raises:
        ConfigError: the folder holds none, or with all faults of a file.
    """
    paths = sorted((folder or FOLDER).glob("*.yaml"))
    if not paths:
        raise ConfigError(f"{folder} holds no *.yaml; give a folder of search spaces")
    pairs = False
    for path in paths:
        space = study_space(_around(path), N_LAYERS)
        sizes = f"{max(branch.dimension for branch in space.branches):>5} dimensions"
        say(console, f"{path.stem:<14} {sizes}  {purpose(path.read_text(encoding='utf-8'))}")
        pairs |= len(space.sources) == PAIR
    but = f" ({PAIR} where they swap layers or cross over)" if pairs else ""
    say(console, f"for {N_SOURCES} sources{but} and {N_LAYERS} layers")


def study_space(config: StudyConfig, n_layers: int) -> Space:
    """Build the space of a configuration, without looking at its models."""
    settings = config.space_settings()
    kinds = dict.fromkeys(KINDS)
    unknown = {kind: dict.fromkeys((BASE, *config.models), "0" * 32) for kind in kinds}
    return build_space(
        replace(settings, evidence=unknown), BASE, tuple(config.models), n_layers, METHODS
    )


def _knob_names() -> set[str]:
    return {knob.name for method in METHODS.values() for knob in method.knobs}


def _around(path: Path, n_sources: int | None = None) -> StudyConfig:
    """Return a study that searches a space file, with models and a task that are only names."""
    names = [f"source-{i + 1}" for i in range(n_sources or N_SOURCES)]
    config = load_config(
        {
            "base": f"{UNKNOWN}/base",
            "models": {name: f"{UNKNOWN}/{name}" for name in names},
            "tasks": [UNKNOWN],
            "search": {"space": str(path.absolute())},
        }
    )
    layers = config.search.layers
    pairs = (layers.swap or layers.crossing) and n_sources is None
    return _around(path, PAIR) if pairs else config


def _n_layers(config: StudyConfig) -> int | None:
    """Return the number of the base's layers; None where it is not on this machine."""
    from automerge.checkpoints.reader import read_json
    from automerge.checkpoints.stacked import COUNTS

    path = Path(config.base) / "config.json"
    found = read_json(path) if path.is_file() else {}
    counts = [found[key] for key in COUNTS if isinstance(found.get(key), int)]
    return counts[0] if counts else None


def _searched(space: Space) -> Iterator[str]:
    """Yield methods with their dimensions, and under each its parameters."""
    if space.by_group:
        yield from _groups(space)
    else:
        for method in space.methods.values():
            sizes = [branch.dimension for branch in space.branches if branch.method == method.name]
            yield f"method     {method.name}: {max(sizes)} dimensions"
            yield from (f"           {line}" for line in _parameters(method, DEFAULT))
            yield from (f"           {line}" for line in _models(method))
    if space.structure is not None:
        yield f"layers     {space.structure.in_words}"
    if space.calibration is not None:
        yield f"calibrate  {space.calibration.in_words}"


def _groups(space: Space) -> Iterator[str]:
    """Yield the methods of each group, and under each its own parameters."""
    sizes = [branch.dimension for branch in space.branches]
    yield (
        f"methods    one for each group of tensors: {len(space.methods)} combinations of "
        f"{min(sizes)} to {max(sizes)} dimensions"
    )
    for choice in space.choices:
        selector, name = choice
        method = next(m for m in space.methods.values() if choice in m.parts)
        yield f"           {'rest' if selector == DEFAULT else selector} by {name}:"
        yield from (f"             {line}" for line in _parameters(method, selector))
    yield from (f"           {line}" for line in _models(next(iter(space.methods.values()))))


def _parameters(method: MethodSpace, selector: str) -> Iterator[str]:
    """Yield a line per knob of the tensors that a selector selects."""

    def of_group(space: KnobSpace) -> bool:
        return len(method.parts) == 1 or space.groups == ((selector,),)

    spaces: dict[str, dict[str, KnobSpace]] = {}
    for own in method.knobs.values():
        for space in filter(of_group, own):
            spaces.setdefault(space.knob, {})[space.parameters[0][0].name] = space
    for knob, distinct in spaces.items():
        owner = "per source" if len(distinct) == len(method.knobs) > 1 else "for all sources"
        yield from _knob(knob, owner, next(iter(distinct.values())))
    for space in filter(of_group, method.recipe_knobs):
        yield from _knob(space.knob, "for the merge", space)
    for switch in method.switches:
        if switch.selector in (None, selector):
            yield f"{switch.knob}: false or true"
    fixed = {
        **{knob: profile.plain() for knob, profile in method.fixed.items()},
        **{k: v if isinstance(v, bool) else v.plain() for k, v in method.recipe_fixed.items()},
    }
    for knob, value in fixed.items():
        if selector in method.readers[knob]:
            yield f"{knob}: always {str(value).lower()}"


def _models(method: MethodSpace) -> Iterator[str]:
    """Yield a line per condition on the models that are merged."""
    if method.selection is not None:
        names = max(map(len, method.selections.values()))
        yield f"models: one of {len(method.selections)} sets of {names}"
    if method.used:
        yield f"models: any may be left out, down to {method.min_sources}"


def _knob(knob: str, owner: str, space: KnobSpace) -> Iterator[str]:
    common = space.parameters[0][0]
    yield f"{knob}: one {owner}, in [{common.low:g}, {common.high:g}]"
    deviations = [p for row in space.parameters for p in row][1:]
    if deviations:
        count = len(deviations)
        noun = "deviation" if count == 1 else "deviations"
        stds = [p.scale * (p.high - p.low) for p in deviations]
        over = [", ".join("+".join(group) for group in space.groups)] * (len(space.groups) > 1)
        over += [f"{len(space.depths)} depths"] * (len(space.depths) > 1)
        size = f"{min(stds):.2g} to {max(stds):.2g}" if count > 1 else f"{stds[0]:.2g}"
        yield (
            f"{knob}: {count} {noun} {owner} over {' × '.join(over)}, within "
            f"±{deviations[0].high:g}, a priori of standard deviation {size}"
        )


def _first_trials(space: Space, config: StudyConfig) -> Iterator[str]:
    """Yield what a search begins with, and of which of it no sampler can learn."""
    sources = space.trained
    search = config.search
    usual = list(usual_merges(sources, BASE, search.methods, config.seed, space.starts))
    start = opening(usual, sources, BASE, config.n_goals, config.n_starts)
    fixed: Mapping[str, Recipe] = {
        BASE: single(BASE),
        **{source: single(source) for source in sources},
        "uniform": uniform_average(sources),
        **{named.name: named.recipe for named in config.recipes},
    }
    steps: Sequence[tuple[str, object]] = (*fixed.items(), *start.steps)
    outside = [
        name for name, step in steps if isinstance(step, Recipe) and space.params(step) is None
    ]
    budget = f"a budget of {config.expected_budget}"
    yield f"first      with {budget}: {', '.join(name for name, _ in steps)}"
    if config.warm_start is not None:
        yield f"           and the front of {config.warm_start}"
    if outside:
        yield f"           of these outside the space: {', '.join(outside)}"


def _cost(config: StudyConfig) -> Iterator[str]:
    """Yield what a candidate costs: items, and tokens where the study has measured some."""
    each = config.evaluation.items_per_candidate
    counted = "all search items" if each == "full" else f"{each} items"
    yield f"candidate  {counted} of each of {len(config.tasks)} objectives"
    run = Path(config.out)
    if exists(run):
        with Store(run, write=False) as store:
            proposed = {trial.number for trial in store.trials() if trial.origin == "sampler"}
            tokens = [
                outcome.tokens
                for number, outcome in store.outcomes("search").items()
                if number in proposed and isinstance(outcome, Measured)
            ]
        if tokens:
            mean = sum(tokens) / len(tokens)
            yield f"           {mean:,.0f} tokens, the mean of {len(tokens)} measured in {run}"
