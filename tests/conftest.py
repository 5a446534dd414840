"""What holds for all tests: examples have no deadline; no garbage is looked for where none is."""

from __future__ import annotations

import gc

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
