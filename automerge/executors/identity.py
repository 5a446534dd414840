"""Whether two workers' scores can be compared."""

from __future__ import annotations

from collections.abc import Mapping


def differences(identity: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Describe how a worker's identity differs from the wanted one; empty if it does not."""
    return [
        f"{what} {identity.get(what, 'missing')} instead of {value}"
        for what, value in wanted.items()
        if identity.get(what) != value
    ]
