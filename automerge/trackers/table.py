"""All trackers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from automerge.trackers.base import Factory
from automerge.trackers.mlflow import MlflowTracker
from automerge.trackers.tensorboard import TensorBoardTracker
from automerge.trackers.trackio import TrackioTracker
from automerge.trackers.wandb import WandbTracker


@dataclass(frozen=True)
class Entry:
    """A tracker, and the module that it needs, which the extra of the tracker's name installs."""

    factory: Factory
    module: str

    @property
    def is_installed(self) -> bool:
        """Whether its module can be found."""
        return find_spec(self.module) is not None


TRACKERS: Mapping[str, Entry] = MappingProxyType(
    {
        "mlflow": Entry(MlflowTracker, "mlflow"),
        "tensorboard": Entry(TensorBoardTracker, "tensorboard"),
        "trackio": Entry(TrackioTracker, "trackio"),
        "wandb": Entry(WandbTracker, "wandb"),
    }
)
