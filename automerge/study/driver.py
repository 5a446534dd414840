"""The phases of a study, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from automerge.executors.base import Executor
from automerge.samplers.base import Sampler
from automerge.space import Space
from automerge.store.store import Store
from automerge.study.dispatch import Dispatcher
from automerge.study.plan import Plan
from automerge.study.search import Search
from automerge.study.selection import Finals
from automerge.study.watch import Observer


class Driver:
    """Runs the phases of one study; each picks up where the store says the last run stopped."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        space: Space,
        sampler: Sampler,
        executor: Callable[[], Executor],
        observer: Observer,
        stop: Callable[[], bool],
    ) -> None:
        self._dispatcher = Dispatcher(executor)
        self._stop = stop
        self._search = Search(store, plan, space, sampler, self._dispatcher, observer, stop)
        self._finals = Finals(store, plan, self._dispatcher, observer, stop)

    def run(self) -> bool:
        """Search, select and test; False when it was stopped before the end."""
        try:
            self._search.run()
            if not self._stop():
                self._finals.select(self._search.trials, self._search.beliefs)
            if not self._stop():
                self._finals.test(self._search.trials)
            return not self._stop()
        finally:
            self._dispatcher.close()
