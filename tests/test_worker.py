"""The worker's border: whatever is raised becomes a value that travels."""

from __future__ import annotations

import pickle

import pytest

from automerge.trial import Failed
from automerge.worker import MAX_TRACEBACK, _trace


class Awkward(Exception):
    """Cannot be pickled, and its text is not text."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first)
        self.second = lambda: second

    def __str__(self) -> str:
        return "binary \udcff\x00 " + "x" * 1_000_000


@pytest.mark.parametrize("error", [Awkward(1, 2), ValueError("y" * 10_000_000), KeyError("é")])
def test_any_exception_becomes_short_text(error: Exception) -> None:
    try:
        raise error
    except Exception as caught:
        text = _trace(caught)
    assert len(text) <= MAX_TRACEBACK
    text.encode("utf-8")
    failed = Failed("error", "reason", text)
    assert pickle.loads(pickle.dumps(failed)) == failed
