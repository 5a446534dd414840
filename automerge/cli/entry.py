"""Run the command line: whatever happens ends in one message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer

from automerge.cli.application import Interrupted, app
from automerge.commands.interrupt import Stopped, stopping_at_once
from automerge.errors import AutomergeError, StateError, disk_is_full
from automerge.machine.bus_error import explain_bus_errors
from automerge.machine.processors import limit_threads
from automerge.text.printable import inert
from automerge.text.redaction import redact

ISSUES = "the project's issue tracker"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code (see docs/exit_codes.md)."""
    limit_threads()
    from automerge.text.terminal import bear_any_encoding

    bear_any_encoding()
    explain_bus_errors()
    with stopping_at_once():
        sys.exit(guarded(lambda: app(arguments, standalone_mode=False)))


def guarded(command: Callable[[], object]) -> int:
    """Turn what a command raises into one message and an exit code; only bugs show a traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        describe = getattr(error, "format_message", error.__str__)
        return _complain(describe(), 2)
    except Interrupted as error:
        return _stopped(error.__cause__)
    except AutomergeError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt as error:
        return _stopped(error)
    except BrokenPipeError:
        # The reader has gone (`| head`): write nothing more, not even at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if disk_is_full(error):
            advice = "nothing measured is lost; free some space and run the same command to resume"
            return _complain(f"the disk is full; {advice}", StateError.exit_code)
        import traceback

        sys.stderr.write(inert(redact(traceback.format_exc())))
        return _complain(f"this is a bug in automerge; please report it to {ISSUES}", 1)


def _stopped(error: BaseException | None) -> int:
    code = error.exit_code if isinstance(error, Stopped) else 130
    return _complain("stopped immediately; run the same command to resume", code)


def _complain(message: str, code: int) -> int:
    for line in inert(redact(message)).split("\n"):
        sys.stderr.write(f"automerge: {line}\n")
    return code
