"""Plan what a study measures and the space it searches, from its configuration and inputs."""

from __future__ import annotations

from dataclasses import replace

from automerge.config import StudyConfig
from automerge.constraint import Constraint
from automerge.errors import ConfigError, Fault
from automerge.items import ItemDraw
from automerge.methods import METHODS
from automerge.objective import goals, searched
from automerge.recipe import BASE, single, uniform_average
from automerge.space import Space, build_space, simplex_sweep
from automerge.store.record import Inputs
from automerge.study import FirstTrial, Limits, Plan
from automerge.study.opening import opening
from automerge.study.usual import usual_merges


def plan_study(config: StudyConfig, inputs: Inputs, window: int | None) -> tuple[Plan, Space]:
    """Return what is measured and the space; raise ConfigError if limits leave nothing."""
    sources = config.trained
    settings = replace(config.space_settings(), evidence=inputs.evidence)
    space = build_space(settings, BASE, tuple(config.models), inputs.n_layers, METHODS)
    n_items = config.evaluation.items_per_candidate
    objectives = searched(inputs.objectives)
    members = {o.name: inputs.members[o.name] for o in objectives if o.name in inputs.members}
    plan = Plan(
        objectives=objectives,
        constraints=tuple(map(Constraint.parse, config.constraints)),
        first=(
            FirstTrial(BASE, "base", single(BASE)),
            *(FirstTrial(name, "source", single(name)) for name in sources),
            FirstTrial("uniform", "uniform", uniform_average(sources)),
            *(
                FirstTrial(name, "sweep", recipe)
                for name, recipe in (simplex_sweep(sources, config.sweep) if config.sweep else ())
            ),
            *(FirstTrial(named.name, "recipe", named.recipe) for named in config.recipes),
            *(FirstTrial(name, "start", recipe) for name, recipe in inputs.warm.items()),
        ),
        items=inputs.items,
        draw=ItemDraw(members, None if n_items == "full" else n_items, config.seed),
        limits=Limits(
            None if config.budget == "unlimited" else config.budget,
            config.max_items,
            config.max_seconds,
            config.patience,
        ),
        shortlist=config.n_shortlisted,
        resolution=config.resolution,
        window=window,
        slopes=config.slopes != "off",
        dear=inputs.generated if config.search.cheap_first else (),
        opening=opening(
            list(usual_merges(sources, BASE, config.search.methods, config.seed, space.starts)),
            sources,
            BASE,
            len(goals(inputs.objectives)),
            config.n_starts,
        ),
    )
    _check_items(plan, config)
    return plan, space


def _check_items(plan: Plan, config: StudyConfig) -> None:
    """Refuse a limit on items that leaves none to search with."""
    limit = plan.limits.items
    first = sum(plan.n_items(trial.origin) for trial in plan.first)
    needed = first + plan.n_later
    if limit is not None and limit < needed:
        message = (
            f"max_items is {limit}, but base, sources and uniform average take "
            f"{first}, and selection and test up to {plan.n_later}: give "
            f"more than {needed}, or lower split.max_select, split.max_test or shortlist"
        )
        raise ConfigError([Fault(message, config.locate(("max_items",)))])
