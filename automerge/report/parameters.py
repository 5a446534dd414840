"""The parameters of the trials, and how each goes together with every objective."""

from __future__ import annotations

from dataclasses import dataclass

from automerge.report.associations import Association, associate
from automerge.report.searched import measured_trials, search_losses
from automerge.report.summary import Summary


@dataclass(frozen=True)
class Parameter:
    """A parameter that varied: its choices, None for a number, and an association per objective."""

    name: str
    categories: tuple[str, ...] | None
    associations: tuple[Association, ...]


def parameters(summary: Summary) -> tuple[Parameter, ...]:
    """Return the parameters with more than one value, in the order of the search space.

    Scores are what the search believed of its trials.
    """
    measured = measured_trials(summary)
    losses = search_losses(summary.result.objectives, measured)
    found = []
    for name in dict.fromkeys(name for t in measured for name in t.trial.params or {}):
        values = [(t.trial.params or {}).get(name) for t in measured]
        known = [value for value in values if value is not None]
        if len(set(known)) < 2:
            continue
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
        found.append(
            Parameter(
                name,
                None if numeric else tuple(sorted({str(value) for value in known})),
                tuple(associate(values, column, not numeric) for column in losses.T),
            )
        )
    return tuple(found)
