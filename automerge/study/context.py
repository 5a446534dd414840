"""What all phases of a study share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from automerge.store.store import Store
from automerge.study.dispatch import Dispatcher
from automerge.study.plan import Plan
from automerge.study.watch import Observer


@dataclass(frozen=True)
class Context:
    """The plan, the store and the workers of one run; `stop` tells whether it is to end."""

    store: Store
    plan: Plan
    dispatcher: Dispatcher
    observer: Observer
    stop: Callable[[], bool]
