"""Commands about a study that has begun: its models, progress, reports and trials."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from automerge.cli.options import (
    Adapter,
    Extensions,
    Json,
    Models,
    Rank,
    Run,
    as_adapter,
    console,
    model_folders,
    option,
    switch,
)
from automerge.text.say import say


def export(
    run: Run,
    trial: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "A trial's number or name, best (the model to take, the default), knee or front (all "
            "merges on it); may be given more than once.",
            "--trial",
            metavar="TRIAL",
        ),
    ] = None,
    adapter: Adapter = False,
    rank: Rank = None,
    model: Models = None,
    extension: Extensions = None,
) -> None:
    """Write a study's merged models to RUN/models, or as adapters to RUN/adapters."""
    from automerge.commands.search import export_as_adapters, export_trials
    from automerge.extensions import load_extensions

    how = as_adapter(adapter, rank)
    screen = console()
    load_extensions(extension or (), Path.cwd())
    if how is not None:
        found = export_as_adapters(run, trial, how, screen, model_folders(model))
        for folder, said in found.items():
            say(screen, f"{folder}: {said}")
        return
    for folder in export_trials(run, trial, screen, model_folders(model)):
        say(screen, str(folder))


def status(
    run: Run,
    as_json: Json = False,
) -> None:
    """Show a study's progress, even while it runs."""
    from automerge.commands.status import print_status, study_status

    progress = study_status(run)
    if as_json:
        sys.stdout.write(json.dumps(progress, indent=2) + "\n")
    else:
        print_status(progress, console())


def show(
    run: Run,
    every: Annotated[bool, switch("Every model, with intervals and differences.", "--all")] = False,
) -> None:
    """Show which model to take, and the front, as the end of a search does."""
    from automerge.commands.search import show as show_front

    show_front(run, every, console())


def pick(
    run: Run,
    prefer: Annotated[
        str,
        option(
            "Weights of objectives. Default: all goals alike.",
            "--prefer",
            metavar="NAME=WEIGHT,...",
        ),
    ] = "",
    at_least: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "The worst score allowed on select items, in the metric's unit (0.6 is 60 %); may be "
            "given more than once.",
            "--min",
            metavar="NAME=SCORE",
        ),
    ] = None,
) -> None:
    """Pick a merge from the front by weights and bounds, on select items; quote its test scores."""
    from automerge.commands.pick import print_pick

    print_pick(run, prefer, at_least or (), console())


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of run folders.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """List studies: their state, trials, the model to take and when they began."""
    from automerge.commands.runs import list_runs, print_runs

    rows = list_runs(folder)
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        print_runs(rows, console())


def chat(
    run: Run,
    trial: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "A trial's number or name, best (the model to take, the default), knee or front; may "
            "be given more than once.",
            "--trial",
            metavar="TRIAL",
        ),
    ] = None,
    beside: Annotated[
        str,
        typer.Option("--beside", help="A source, base, best_parent or none.", metavar="NAME"),
    ] = "best_parent",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="The longest reply.", min=1, metavar="N")
    ] = 200,
    model: Models = None,
    extension: Extensions = None,
) -> None:
    """Talk to merges beside a parent: one line in, a greedy reply of each out."""
    from automerge.commands.chat import Chat
    from automerge.commands.chat import chat as talk
    from automerge.extensions import load_extensions

    load_extensions(extension or (), Path.cwd())
    talk(Chat(run, trial or (), beside, max_tokens, model_folders(model)), console())


def push(
    run: Run,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where on the hub.")],
    trial: Annotated[
        str,
        option(
            "A trial's number or name, best (the model to take, the default) or knee.",
            "--trial",
            metavar="TRIAL",
        ),
    ] = "best",
    public: Annotated[bool, switch("Let anyone see it; private otherwise.", "--public")] = False,
    store: Annotated[
        bool, switch("Publish the study's store too: every item score.", "--store")
    ] = False,
    model: Models = None,
    extension: Extensions = None,
) -> None:
    """Publish a merge on the Hugging Face Hub, with its card, recipe and reproduce.json."""
    from automerge.commands.publishing import Push
    from automerge.commands.publishing import push as push_model
    from automerge.extensions import load_extensions

    screen = console()
    load_extensions(extension or (), Path.cwd())
    wanted = Push(run, trial, repository, public, store, model_folders(model))
    say(screen, push_model(wanted, screen))


def compare(
    run: Run,
    other: Annotated[Path, typer.Argument(metavar="RUN", help="Another study's folder.")],
) -> None:
    """Compare two studies on the items that both tested: fronts, differences, hypervolume."""
    from automerge.commands.compare import print_comparison

    print_comparison(run, other, console())


def report(run: Run) -> None:
    """Regenerate RUN/front.json and RUN/report.html from the store."""
    from automerge.commands.search import write_reports

    screen = console()
    for path in write_reports(run):
        say(screen, str(path))


def export_trials(
    run: Run,
    file_format: Annotated[
        str, typer.Option("--format", help="csv, jsonl or parquet.", metavar="FORMAT")
    ] = "csv",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        option("The file to write. Default: RUN/trials.FORMAT.", "--out", metavar="FILE"),
    ] = None,
) -> None:
    """Write a table with one row per trial, even while the study runs."""
    from automerge.commands.export_trials import write_trials

    path = write_trials(run, file_format, out)
    say(console(), str(path))


def dashboard(
    run: Run,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="On 127.0.0.1.")] = 8080,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve/--no-serve",
            help="Start the dashboard, or only write RUN/optuna.journal.",
            metavar="",
        ),
    ] = True,
) -> None:
    """Show a study in optuna-dashboard, on this machine only."""
    from automerge.commands import dashboard as shown

    path = shown.write_optuna_storage(run)
    say(console(), str(path))
    if serve:
        shown.serve(path, port)
