"""Tables that others can add to: entry points of packages, and a user's modules."""

from automerge.extensions.modules import (
    Extension,
    attribute,
    install,
    installed,
    load_extensions,
    missing,
    read_extension,
)
from automerge.extensions.table import Table

__all__ = [
    "Extension",
    "Table",
    "attribute",
    "install",
    "installed",
    "load_extensions",
    "missing",
    "read_extension",
]
