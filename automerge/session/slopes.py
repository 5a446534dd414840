"""Whether a study follows slopes, and if not, why."""

from __future__ import annotations

from automerge.config import StudyConfig
from automerge.objective import goals
from automerge.samplers import SAMPLERS
from automerge.samplers.table import AUTO
from automerge.space import Space
from automerge.space.flow import Flow
from automerge.space.structure import Structure
from automerge.store.record import Inputs


def obstacle(config: StudyConfig, space: Space, inputs: Inputs) -> str | None:
    """Return why slopes are not followed unless asked for; None where they are."""
    if config.slopes == "off":
        return "switched off"
    if isinstance(space.structure, Structure | Flow):
        return "models of other depths are searched, and the slopes of one say little of another"
    if not space.smooth.any():
        return "no parameter of the space has one"
    lacking = without_loss(inputs) if inputs.smooth else [o.name for o in goals(inputs.objectives)]
    return f"no usable loss for {', '.join(lacking)}" if lacking else None


def wanted(config: StudyConfig, sampler: str) -> bool:
    """Return whether trials may be measured with slopes; `sampler` has "auto" resolved."""
    return config.slopes != "off" and SAMPLERS.may_want_slopes(sampler)


def in_words(config: StudyConfig, space: Space, inputs: Inputs, sampler: str) -> str | None:
    """Say which slopes a study follows; None where a sampler was chosen that follows none."""
    if wanted(config, sampler):
        names = ", ".join(o.name for o in goals(inputs.objectives) if o.name in inputs.smooth)
        lacking = ", ".join(without_loss(inputs))
        rest = f"; objectives without a usable loss: {lacking}" if lacking else ""
        return (f"follow {names}" if names else "none") + rest
    reason = obstacle(config, space, inputs) if config.sampler == AUTO else None
    return None if reason is None else f"none: {reason}"


def without_loss(inputs: Inputs) -> list[str]:
    """List the goals with no smooth loss behind them, but for sizes, whose slopes are 0."""
    others = (o for o in goals(inputs.objectives) if not o.is_size)
    return [o.name for o in others if o.name not in inputs.smooth]
