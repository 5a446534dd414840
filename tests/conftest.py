"""What holds for all tests: examples have no deadline; no garbage is looked for where none is.

A test marked `sample(n)` has many cases: n of them are in the fast suite, the others are slow.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
"""How long an example takes says how busy the machine is, not whether a law holds."""


def pytest_configure() -> None:
    """Libraries and tests are most of a million objects, of which none is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of a sampled test as slow, but for n that are evenly spaced.

    Where they begin depends on the test's name, so laws of one class have different cases.
    """
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, found in cases.items():
        (n,) = found[0].get_closest_marker("sample").args
        step = len(found) / min(n, len(found))
        first = crc32(name.encode()) % len(found)
        kept = {(first + int(i * step)) % len(found) for i in range(min(n, len(found)))}
        for number, item in enumerate(found):
            if number not in kept:
                item.add_marker(pytest.mark.slow)
