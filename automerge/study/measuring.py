"""Measurements that do not depend on each other, recorded as they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from automerge.study.context import Context
from automerge.study.watch import Scored, Snapshot, described, scored
from automerge.trial import (
    Failed,
    Items,
    Job,
    Measured,
    Outcome,
    Part,
    Steering,
    Trial,
    count_items,
)


class Measuring:
    """Measures models on items of one part, and picks up where the store says it stopped.

    `front` and `parents` are what observers are shown.
    """

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._plan = context.plan
        self._dispatcher = context.dispatcher
        self._observer = context.observer
        self._stop = context.stop
        self.front: Scored = ()
        self.parents: Scored = ()

    def measure(
        self,
        part: Part,
        trials: Mapping[int, Trial],
        items: Items,
        block: int = 0,
        later: int = 0,
        steering: Steering | None = None,
    ) -> None:
        """Measure on one block the models not yet measured; `later` more are to come.

        With `steering`, slopes are wanted. For the part "explain", only slopes are recorded.
        """
        done = self._store.blocks(part)
        failures = self._store.failed(part)
        waiting = [n for n in trials if done.get(n, 0) <= block and n not in failures]
        counted = sum(done.values()) + len(failures)
        total = counted + len(waiting) + later
        seconds, measured = 0.0, 0
        while (waiting and not self._stop()) or self._dispatcher.running:
            while waiting and not self._stop() and self._dispatcher.free:
                trial = trials[waiting.pop(0)]
                self._dispatcher.submit(
                    Job(trial.number, trial.recipe, part, items, block, steering)
                )
            if self._stop():
                self._dispatcher.withdraw()
            if (finished := self._dispatcher.collect()) is None:
                continue
            job, outcome = finished
            self._store.record(job, _slopes_only(outcome) if part == "explain" else outcome)
            counted += 1
            if isinstance(outcome, Failed):
                failures.add(job.trial)
            else:
                seconds += outcome.timings.total
                measured += count_items(items)
            pace = seconds / max(measured, 1) / max(self._dispatcher.slots, 1)
            last = described(self._plan.objectives, trials[job.trial], outcome, block)
            self._observer.update(
                Snapshot(
                    phase=part,
                    done=counted,
                    total=total,
                    running=self._dispatcher.running,
                    slots=self._dispatcher.slots,
                    failed=len(failures),
                    front=self.front,
                    last=last,
                    parents=self.parents,
                    later_s=self._plan.n_items_after(part) * pace,
                    values=scored(self._plan.objectives, outcome),
                )
            )


def _slopes_only(outcome: Outcome) -> Outcome:
    return replace(outcome, scores={}, margins={}) if isinstance(outcome, Measured) else outcome
