"""Laws of the errors that a command ends with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from automerge.errors import AutomergeError
from automerge.evaluation import guards  # noqa: F401  (defines errors of its own)
from automerge.merging import witness  # noqa: F401


def kinds(error: type[AutomergeError]) -> Iterator[type[AutomergeError]]:
    yield error
    for kind in error.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(dict.fromkeys(kinds(AutomergeError))))
def test_no_error_of_the_user_or_the_machine_ends_as_a_bug_does(
    kind: type[AutomergeError],
) -> None:
    assert 2 <= kind.exit_code <= 6
