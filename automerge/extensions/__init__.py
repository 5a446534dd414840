"""Tables that others can extend, by entry points of packages or modules of their own."""

from automerge.extensions.modules import (
    Extension,
    attribute,
    install,
    installed,
    load_extensions,
    missing,
    raised_at,
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
    "raised_at",
    "read_extension",
]
