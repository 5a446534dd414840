"""What a study is, apart from its trials: written whole, read back as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from automerge.errors import StateError
from automerge.objective import Estimate
from automerge.recipe import uniform_average
from automerge.store.file import put
from automerge.store.record import Decided, Freeze, Run, StudyModel, StudyRecord
from automerge.store.result import ModelOrigin
from automerge.store.store import Store
from tests.studies import toy_plan, toy_record, toy_store


def full_record() -> StudyRecord:
    """A record in which no field has its default."""
    record = toy_record(toy_plan(12))
    inputs = replace(
        record.begun.inputs,
        clusters={"one": (0, 0, 1)},
        tasks={"one": "a digest"},
        evidence={"input_gram": {"a": "0" * 32}},
        warnings=("a warning",),
        score_commands=(("lm_eval", "--tasks", "one"),),
        warm={"warm-trial-3": uniform_average(("a", "b"))},
    )
    origins = (ModelOrigin("base", "hub/base", "main", "a digest", "mit"),)
    model = StudyModel("base", "hub/base@main", "main", "whole", "part", "mit")
    return StudyRecord(
        replace(record.begun, inputs=inputs, window=3, origins=origins),
        replace(
            record.current,
            models=(model,),
            versions=(Run(0, {"torch": "1"}), Run(9, {"torch": "2"})),
            state="finished",
            finished="2026-01-01T00:01:00+00:00",
        ),
        Decided(
            shortlist=(4, 7),
            frozen=(Freeze("a digest", 12),),
            believed={4: {"first": Estimate(0.5, 0.1, 8), "second": Estimate(1.0, math.inf, 1)}},
            baselines=(0, 1),
            front=(),
        ),
    )


@pytest.mark.parametrize("record", [full_record(), toy_record(toy_plan(12))], ids=["full", "new"])
def test_json_gives_the_record_again(record: StudyRecord) -> None:
    assert StudyRecord.from_plain(json.loads(json.dumps(record.plain()))) == record


def test_a_store_begins_with_a_record_once(tmp_path: Path) -> None:
    record = toy_record(toy_plan(12))
    with Store(tmp_path, write=True) as store:
        assert not store.begun
        with pytest.raises(StateError, match="before it began; run the same `automerge search`"):
            _ = store.study
        store.begin(record)
        assert store.begun
        assert store.study == record
        with pytest.raises(ValueError, match="has already begun"):
            store.begin(record)
    with Store(tmp_path, write=False) as store:
        assert store.study == record


def test_each_part_changes_by_itself_and_at_once_for_whoever_reads(tmp_path: Path) -> None:
    with toy_store(tmp_path) as store:
        before = store.study
        current = replace(before.current, state="failed")
        decided = Decided(believed={}, frozen=(Freeze("a digest", 0),))
        store.renew(current)
        assert store.study == replace(before, current=current)
        store.decide(decided)
        with Store(tmp_path, write=False) as reader:
            assert store.study == reader.study == StudyRecord(before.begun, current, decided)


def test_what_the_schema_does_not_know_is_not_written(tmp_path: Path) -> None:
    with toy_store(tmp_path) as store:
        before = store.study
        with pytest.raises(ValueError, match=r"current: config\.seed: .* got -1"):
            store.renew(replace(before.current, config={**before.current.config, "seed": -1}))
        assert store.study == before


@pytest.mark.parametrize("key", ["begun", "current", "decided"])
def test_a_store_with_some_parts_of_a_record_is_refused(tmp_path: Path, key: str) -> None:
    text = json.dumps(toy_record(toy_plan(12)).plain()[key])
    with Store(tmp_path, write=True) as store, store._transaction() as db:
        put(db, key, text)
    with pytest.raises(StateError, match=r"expected begun and current and decided, got .*damaged"):
        Store(tmp_path, write=False)
