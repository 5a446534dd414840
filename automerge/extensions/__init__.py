"""Tables that others can add to: entry points of packages, and a user's modules."""

from automerge.extensions.modules import (
    Extension,
    install,
    installed,
    load_extensions,
    read_extension,
)
from automerge.extensions.table import Table

__all__ = [
    "Extension",
    "Table",
    "install",
    "installed",
    "load_extensions",
    "read_extension",
]
