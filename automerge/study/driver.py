"""The phases of a study, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from automerge.executors.base import Executor
from automerge.samplers.base import Sampler
from automerge.space import Space
from automerge.store.store import Store
from automerge.study.context import Context
from automerge.study.dispatch import Dispatcher
from automerge.study.explanation import Explanation
from automerge.study.plan import Plan
from automerge.study.search import Search
from automerge.study.selection import Selection
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
        self._context = Context(store, plan, Dispatcher(executor), observer, stop)
        self._search = Search(self._context, space, sampler)
        self._selection = Selection(self._context)
        self._explanation = Explanation(self._context)

    def run(self) -> bool:
        """Search, select, test and explain; return False when stopped before the end."""
        stop = self._context.stop
        try:
            self._search.run()
            if not stop():
                search = self._search
                self._selection.select(search.trials, search.estimates, search.favourites)
            if not stop():
                self._selection.test(self._search.trials)
            if not stop():
                search = self._search
                self._explanation.run(search.trials, search.estimates.steering)
            return not stop()
        finally:
            self._context.dispatcher.close()
