"""The front as a document for programs: `front.json`, described in docs/front_schema.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from automerge.estimation import Difference, Interval, smallest_detectable_difference
from automerge.files.atomic import write_atomically
from automerge.objective import Objective
from automerge.report.choice import choose
from automerge.report.compare import Versus
from automerge.report.conclusion import conclusion
from automerge.report.summary import Member, Summary
from automerge.text.json_number import finite
from automerge.trial import PARTS

SCHEMA_VERSION = 1
FILE = "front.json"

Plain: TypeAlias = dict[str, object]


def front_document(summary: Summary) -> Plain:
    """Return the front with its scores and comparisons as JSON-ready values."""
    result = summary.result
    return {
        "schema_version": SCHEMA_VERSION,
        "study": result.study,
        "state": result.state,
        "budget": result.budget,
        "max_items": result.max_items,
        "max_time": result.max_time,
        "patience": result.patience,
        "sampler": result.sampler,
        "seed": result.seed,
        "conclusion": list(conclusion(summary)),
        "choice": _choice(summary),
        "objectives": [_objective(o, summary) for o in result.objectives],
        "constraints": [str(constraint) for constraint in result.constraints],
        "openings": result.openings,
        "members": [_member(m, summary.likely.get(m.name)) for m in summary.members],
        "hypervolume": _hypervolume(summary),
        "optimism": {
            name: {"value": finite(o.value), "stderr": finite(o.stderr), "models": o.models}
            for name, o in summary.optimism.items()
        },
    }


def write_front(summary: Summary, folder: Path) -> Path:
    """Write `front.json` into the run folder, whole or not at all."""
    text = json.dumps(front_document(summary), indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomically(folder / FILE, text + "\n")


def _choice(summary: Summary) -> Plain | None:
    if (found := choose(summary)) is None:
        return None
    return {
        "name": found.name,
        "rule": found.rule,
        "beats_parent": found.beats_parent,
        "beats_uniform": found.beats_uniform,
    }


def _objective(objective: Objective, summary: Summary) -> Plain:
    return {
        "name": objective.name,
        "task": objective.task,
        "metric": f"{objective.metric},{objective.filter}",
        "direction": objective.direction,
        "goal": objective.goal,
        "held_out": objective.held_out,
        "aggregation": objective.aggregation,
        "best_parent": summary.best_parent.get(objective.name),
        "smallest_detectable_difference": finite(summary.detectable.get(objective.name)),
    }


def _member(member: Member, likely: float | None) -> Plain:
    trial = member.trial
    return {
        "name": member.name,
        "kind": member.kind,
        "on_front": member.on_front,
        "nondominated_probability": finite(likely),
        "knee": member.knee,
        "trial": trial.trial.number,
        "recipe": trial.trial.recipe.plain(),
        "model_dir": trial.model_dir,
        "scores": {
            name: {part: _interval(parts[part]) for part in PARTS}
            for name, parts in member.scores.items()
        },
        "versus": {
            "best_parent": _versus(member.versus_parent, "parent"),
            "uniform": _versus(member.versus_uniform, None),
        },
        "constraints": [
            {
                "constraint": str(kept.constraint),
                "value": finite(kept.value),
                "bound": finite(kept.bound),
                "verdict": kept.verdict,
            }
            for kept in member.kept
        ],
    }


def _interval(found: Interval | None) -> Plain | None:
    if found is None:
        return None
    return {
        "value": finite(found.value),
        "stderr": finite(found.stderr),
        "low": finite(found.low),
        "high": finite(found.high),
        "n": found.n,
    }


def _versus(comparisons: Mapping[str, Versus], name: str | None) -> Plain:
    return {
        objective: ({name: versus.against} if name else {}) | _difference(versus.difference)
        for objective, versus in comparisons.items()
    }


def _difference(difference: Difference) -> Plain:
    return {
        "difference": finite(difference.difference),
        "low": finite(difference.low),
        "high": finite(difference.high),
        "n": difference.n,
        "smallest_detectable": finite(smallest_detectable_difference(difference)),
    }


def _hypervolume(summary: Summary) -> Plain | None:
    if (found := summary.hypervolume) is None:
        return None
    return {
        "reference": {name: finite(value) for name, value in found.reference.items()},
        "ideal": {name: finite(value) for name, value in found.ideal.items()},
        "front": finite(found.front),
        "parents": finite(found.parents),
        "uniform": finite(found.uniform),
        "sweep": finite(found.sweep),
    }
