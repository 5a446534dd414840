"""Commands about this installation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from automerge.cli.options import Json, console, switch


def selftest(
    chaos: Annotated[
        bool,
        switch("Also kill drivers, workers and exports, and fill the disk.", "--chaos"),
    ] = False,
    times: Annotated[int, typer.Option("--times", min=1, help="Injections of each fault.")] = 3,
) -> None:
    """Search the demo on this machine and check that faults lose nothing.

    Takes a minute, or a few with --chaos. Exits with code 1 if any check fails.
    """
    from automerge.commands.selftest import selftest as run_selftest

    if not run_selftest(console(), chaos=chaos, times=times):
        raise typer.Exit(1)


def doctor(
    as_json: Json = False,
) -> None:
    """Say what this machine can do, and what is missing.

    Exits with code 3 if a search cannot run here. Tokens are never shown.
    """
    import json

    from automerge.commands.doctor import can_search, examine, plain, print_checks

    checks = examine(Path.cwd())
    if as_json:
        sys.stdout.write(json.dumps(plain(checks), indent=2) + "\n")
    else:
        print_checks(checks, console())
    if not can_search(checks):
        raise typer.Exit(3)


def version() -> None:
    """Print automerge's version."""
    import automerge

    sys.stdout.write(f"automerge {automerge.__version__}\n")
