"""A recipe's smooth numbers, improved by gradient steps on plain text."""

from automerge.refinement.detail import DETAILS, detailed
from automerge.refinement.loop import Best, Progress, Steps, refine
from automerge.refinement.losses import LOSSES
from automerge.refinement.numbers import Number, explicit, numbers, with_values
from automerge.refinement.objective import Aim, Measure, Text, TextObjective
from automerge.refinement.pieces import LEAST, Pieces, divided
from automerge.refinement.room import Room, find_room

__all__ = [
    "DETAILS",
    "LEAST",
    "LOSSES",
    "Aim",
    "Best",
    "Measure",
    "Number",
    "Pieces",
    "Progress",
    "Room",
    "Steps",
    "Text",
    "TextObjective",
    "detailed",
    "divided",
    "explicit",
    "find_room",
    "numbers",
    "refine",
    "with_values",
]
