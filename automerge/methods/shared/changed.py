"""What counts as a change of an element: the knob that both RAM methods share."""

from automerge.methods.base import Knob

EPSILON = Knob("epsilon", "recipe", "float", 1e-5, None, (0.0, 1.0))
"""The magnitude above which an element counts as changed."""
