"""The command line: arguments → configuration → study or report. No logic lives here."""

from automerge.cli.application import app
from automerge.cli.entry import main

__all__ = ["app", "main"]
