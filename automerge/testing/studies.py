"""What the store of a study begins with, for studies whose models are formulas."""

from __future__ import annotations

from collections.abc import Sequence

from automerge.store.record import Begun, Current, Inputs, Run, StudyRecord
from automerge.study import Plan


def plain_record(plan: Plan, sources: Sequence[str], n_layers: int) -> StudyRecord:
    """Return what a session would write before the loop begins, as far as a plan says it.

    Args:
        plan: what the study measures.
        sources: their names.
        n_layers: the base's.
    """
    inputs = Inputs(
        objectives=plan.objectives,
        items=plan.items,
        members={name: tuple(tasks) for name, tasks in plan.draw.members.items()},
        split="a formula's",
        n_layers=n_layers,
        dtype="float32",
        tasks={},
    )
    begun = Begun(
        inputs=inputs,
        sampler="random",
        window=plan.window,
        fingerprint="a formula's",
        origins=(),
        machine="a formula",
        started="2026-01-01T00:00:00+00:00",
        command="automerge search",
    )
    config = {
        "name": "toy",
        "budget": "unlimited" if plan.limits.trials is None else plan.limits.trials,
        "seed": plan.draw.seed,
        "models": {name: f"./{name}" for name in sources},
    }
    return StudyRecord(begun, Current(config, (), (Run(0, {}),)))
