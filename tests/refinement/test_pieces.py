"""How text is divided, and the order of batches."""

from __future__ import annotations

from itertools import islice

from automerge.refinement import LEAST, divided
from automerge.refinement.pieces import batches

ROWS = [(i, i + 1, i + 2) for i in range(37)]


def test_the_parts_have_every_sequence_once_a_tenth_each_held_back() -> None:
    parts = divided([*ROWS, *ROWS, (5,), ()], seed=3)
    assert parts is not None
    assert sorted((*parts.train, *parts.check, *parts.held)) == ROWS
    assert (len(parts.check), len(parts.held)) == (4, 4)
    assert parts == divided([*ROWS, *ROWS], seed=3)
    assert parts != divided(ROWS, seed=4)


def test_too_little_text_is_not_divided() -> None:
    assert divided(ROWS[: LEAST - 1] * 5, seed=0) is None
    assert divided(ROWS[:LEAST], seed=0) is not None


def test_batches_take_all_sequences_before_any_again_and_none_twice() -> None:
    stream = batches(ROWS, 30, seed=1)
    taken = [next(stream) for _ in range(12)]
    flat = [piece for batch in taken for piece in batch]
    assert sorted(flat[: len(ROWS)]) == ROWS
    assert flat[: len(ROWS)] != flat[len(ROWS) : 2 * len(ROWS)]
    assert all(len(set(batch)) == len(batch) for batch in taken)
    assert all(sum(map(len, batch)) == 30 for batch in taken[:3])
    assert taken == list(islice(batches(ROWS, 30, seed=1), 12))


def test_a_batch_has_one_sequence_at_least() -> None:
    assert [len(batch) for batch in islice(batches(ROWS, 1, seed=0), 3)] == [1, 1, 1]
