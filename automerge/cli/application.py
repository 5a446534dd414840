"""The table of commands, in the order of the help."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from automerge.cli.bench import bench_generate, bench_merge, bench_score, bench_slopes
from automerge.cli.init import init, schema
from automerge.cli.installation import doctor, selftest, version
from automerge.cli.models import convert, gather, inspect, library, merge, reproduce, score, soup
from automerge.cli.refining import refine
from automerge.cli.search import demo, search
from automerge.cli.spaces import list_
from automerge.cli.spaces import show as show_space
from automerge.cli.studies import (
    chat,
    compare,
    dashboard,
    export,
    export_trials,
    pick,
    push,
    report,
    runs,
    show,
    status,
)


class Interrupted(Exception):
    """Carries a KeyboardInterrupt, as its cause, past typer, which would swallow one."""


class _PlainSwitches:
    """Shows no kind of value beside options that take none."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
        return found


class _Command(_PlainSwitches, TyperCommand):
    pass


class _Group(_PlainSwitches, TyperGroup):
    pass


class _Commands(_Group):
    """Lets a KeyboardInterrupt through, which typer would silently turn into an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    name="automerge",
    cls=_Commands,
    help="Search for the best merges of language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print automerge's version.",
            metavar="",
        ),
    ] = False,
) -> None:
    pass


COMMANDS = {
    "Search": (init, schema, search, demo, status),
    "What was found": (runs, show, pick, compare, chat, report),
    "Take and publish": (export, push, reproduce, export_trials, dashboard),
    "Models, without a search": (inspect, merge, library, soup, refine, gather, score, convert),
    "This installation": (doctor, selftest, version),
}
"""The commands by what they are for, in the order of the help."""
for _panel, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(_command.__name__.replace("_", "-"), cls=_Command, rich_help_panel=_panel)(
            _command
        )

bench = typer.Typer(cls=_Group, help="Benchmarks.", no_args_is_help=True)
bench.command("merge", cls=_Command)(bench_merge)
bench.command("score", cls=_Command)(bench_score)
bench.command("slopes", cls=_Command)(bench_slopes)
bench.command("generate", cls=_Command)(bench_generate)
app.add_typer(bench, name="bench", rich_help_panel="This installation")

space = typer.Typer(cls=_Group, help="Search spaces.", no_args_is_help=True)
space.command("show", cls=_Command)(show_space)
space.command("list", cls=_Command)(list_)
app.add_typer(space, name="space", rich_help_panel="Search")
