"""The loop: ask, measure, record, tell; then select and test what was found.

One driver owns the loop and the store; workers hold no search state. Every change is in the store
before it is acted on, so replaying the store's events restores the sampler exactly.
"""

from automerge.study.driver import Driver
from automerge.study.limits import Limits
from automerge.study.plan import FirstTrial, Plan
from automerge.study.watch import Observer, Snapshot, label

__all__ = ["Driver", "FirstTrial", "Limits", "Observer", "Plan", "Snapshot", "label"]
