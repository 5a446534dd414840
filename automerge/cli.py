"""The command line: arguments → configuration → study or report. No logic lives here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from automerge.commands.interrupt import Stopped, stopping_at_once
from automerge.errors import AutomergeError, ConfigError, StateError, disk_is_full
from automerge.machine.bus_error import explain_bus_errors
from automerge.machine.processors import limit_threads
from automerge.text.printable import inert
from automerge.text.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.config import StudyConfig

ISSUES = "the project's issue tracker"
DEFAULT_CONFIG = "automerge.yaml"


class _Interrupted(Exception):
    """Carries a KeyboardInterrupt, as its cause, past typer, which would swallow one."""


class _Commands(TyperGroup):
    """Lets a KeyboardInterrupt through, which typer would silently turn into an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error


app = typer.Typer(
    name="automerge",
    cls=_Commands,
    help="Search for the best merges of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(help="Benchmarks.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A study's folder, such as runs/demo.")]
Text = Optional[str]  # noqa: UP045  typer reads the annotation at run time


def _option(help_text: str, *names: str, metavar: str | None = None) -> object:
    return typer.Option(*names, help=help_text, metavar=metavar, show_default=False)


Extensions = Annotated[
    Optional[list[str]],  # noqa: UP045
    _option(
        "A Python module with your own methods, samplers or scores; may be given more than once.",
        "--extension",
        metavar="MODULE_OR_FILE",
    ),
]


@app.command()
def search(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="[CONFIG]",
            help=f"A study's YAML. Default: ./{DEFAULT_CONFIG}, or the demo when there is none.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[Text, _option("Number of recipes to measure.", "--budget")] = None,
    max_time: Annotated[
        Text,
        _option("Finish within about this time, e.g. 8h or 90min.", "--max-time", metavar="TIME"),
    ] = None,
    max_items: Annotated[
        Text, _option("Score at most this many items in total.", "--max-items")
    ] = None,
    constraint: Annotated[
        Optional[list[str]],  # noqa: UP045
        _option(
            "A bound such as 'mmlu >= best_parent - 0.01'; may be given more than once.",
            "--constraint",
            metavar="TEXT",
        ),
    ] = None,
    base: Annotated[
        Text, _option("The base model.", "--base", metavar="PATH_OR_HUB_ID[@REV]")
    ] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        _option(
            "A fine-tune or LoRA adapter of the base; may be given more than once.",
            "--model",
            metavar="NAME=PATH_OR_HUB_ID[@REV]",
        ),
    ] = None,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        _option(
            "An lm-eval task to optimise for; may be given more than once.",
            "--task",
            metavar="TASK[:METRIC[:DIRECTION]]",
        ),
    ] = None,
    include_path: Annotated[
        Text, _option("A folder with your own lm-eval tasks.", "--include-path", metavar="DIR")
    ] = None,
    sampler: Annotated[
        Text, _option("auto, gp, cma, tpe, nsga2, nsga3 or random.", "--sampler")
    ] = None,
    seed: Annotated[Text, _option("Seed of every proposal and random mask.", "--seed")] = None,
    out: Annotated[
        Text, _option("The study's folder. Default: runs/NAME.", "--out", metavar="DIR")
    ] = None,
    name: Annotated[Text, _option("The study's name.", "--name")] = None,
    executor: Annotated[Text, _option("local (in this process) or ray.", "--executor")] = None,
    workers: Annotated[Text, _option("Number of Ray workers.", "--workers")] = None,
    ray_address: Annotated[
        Text, _option("A running Ray cluster; by default Ray is started here.", "--ray-address")
    ] = None,
    deterministic: Annotated[
        Optional[bool],  # noqa: UP045
        _option("Make the trials independent of worker timing.", "--deterministic"),
    ] = None,
    device: Annotated[Text, _option("auto, cpu or cuda.", "--device")] = None,
    dtype: Annotated[
        Text, _option("Precision of scoring: auto, float32, bfloat16 or float16.", "--dtype")
    ] = None,
    batch_size: Annotated[Text, _option("Requests per batch.", "--batch-size")] = None,
    items_per_candidate: Annotated[
        Text,
        _option(
            "Fresh search items per objective for each candidate: a number, or full.",
            "--items-per-candidate",
        ),
    ] = None,
    export: Annotated[
        Text, _option("Which models to write at the end: front, knee or none.", "--export")
    ] = None,
    apply_chat_template: Annotated[
        Optional[bool],  # noqa: UP045
        _option("Wrap prompts in the base's chat template.", "--apply-chat-template"),
    ] = None,
    allow_task_code: Annotated[
        Optional[bool],  # noqa: UP045
        _option("Let your task files run Python.", "--allow-task-code"),
    ] = None,
    allow_code_eval: Annotated[
        Optional[bool],  # noqa: UP045
        _option("Let tasks run model-written code, sandboxed.", "--allow-code-eval"),
    ] = None,
    extension: Extensions = None,
) -> None:
    """Search merge recipes, choose a front on fresh items, test it on sealed ones.

    Run the same command to resume an interrupted study; raise --budget to extend a finished one.
    """
    overrides = {
        "budget": budget,
        "max_time": max_time,
        "max_items": max_items,
        "constraint": constraint,
        "base": base,
        "model": model,
        "task": task,
        "include_path": include_path,
        "sampler": sampler,
        "seed": seed,
        "out": out,
        "name": name,
        "executor": executor,
        "workers": workers,
        "ray_address": ray_address,
        "deterministic": deterministic,
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "items_per_candidate": items_per_candidate,
        "export": export,
        "apply_chat_template": apply_chat_template,
        "allow_task_code": allow_task_code,
        "allow_code_eval": allow_code_eval,
        "extension": extension,
    }
    given = {key: value for key, value in overrides.items() if value is not None}
    console = _console()
    loaded = _load(config, given, console)

    from automerge.commands.search import run_search

    code = run_search(loaded, console, command=_command_line())
    if code:
        raise typer.Exit(code)


@app.command()
def export(
    run: Run,
    trial: Annotated[
        Optional[list[int]],  # noqa: UP045
        _option("A trial's number; may be given more than once. Default: the front.", "--trial"),
    ] = None,
    extension: Extensions = None,
) -> None:
    """Write a study's merged models to RUN/models."""
    from automerge.commands.search import export_trials
    from automerge.extensions import load_extensions

    console = _console()
    load_extensions(extension or (), Path.cwd())
    for folder in export_trials(run, trial, console):
        console.print(str(folder), markup=False, soft_wrap=True)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe: automerge's or mergekit's YAML.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="DIR")],
    extension: Extensions = None,
) -> None:
    """Merge models by a recipe, without a search."""
    from automerge.commands.merge import merge_file
    from automerge.extensions import load_extensions

    load_extensions(extension or (), Path.cwd())
    merge_file(recipe, out, _console())


@app.command()
def gather(
    models: Annotated[
        list[str],
        typer.Argument(metavar="BASE [NAME=]MODEL...", help="Models: folders or hub ids."),
    ],
    text: Annotated[
        Path, typer.Option("--text", help="A text file, or a folder of them.", metavar="PATH")
    ],
    kind: Annotated[
        str, typer.Option("--kind", help="What to gather.", metavar="KIND")
    ] = "input_gram",
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens to read.", min=1)] = 65_536,
    length: Annotated[int, typer.Option("--length", help="Tokens per sequence.", min=1)] = 512,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Gather statistics that methods such as regmean need, and print a recipe's `evidence`."""
    from automerge.commands.gather import gather_command
    from automerge.session.gathering import GatherSettings

    gather_command(models, kind, text, GatherSettings(tokens, length, device), _console())


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="The folder of a model.", metavar="MODEL_DIR")],
    run: Annotated[Path, typer.Option("--run", help="The study's run folder.", metavar="RUN")],
    task: Annotated[str, typer.Option("--task", help="An objective of the study.", metavar="NAME")],
    extension: Extensions = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every item's score.")] = False,
) -> None:
    """Score a model on the test items of a study's task, as the study did."""
    from automerge.commands.score import score_command

    score_command(model, run, task, extension or [], as_json, _console())


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A file for mergekit or mergekit-evolve.")],
) -> None:
    """Convert a mergekit file to a recipe, or a mergekit-evolve file to a study, and print it."""
    from automerge.commands.convert import converted

    sys.stdout.write(converted(file))


@app.command()
def inspect(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base: a folder or hub id.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SOURCE...", help="Fine-tunes or LoRA adapters: folders or hub ids."
        ),
    ],
    weights: Annotated[
        bool, typer.Option("--weights", help="Read all weights: task vectors, conflicts, NaN.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--html", help="Also write an HTML page.", metavar="FILE"),
    ] = None,
) -> None:
    """Check whether models can be merged and how they relate.

    Exits with code 3 if a source cannot be merged as is.
    """
    from automerge.commands.inspect import inspect_models

    if not inspect_models([base, *sources], weights, as_json, html, _console()):
        raise typer.Exit(3)


@app.command()
def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a study's progress, even while it runs."""
    from automerge.commands.status import print_status, study_status

    progress = study_status(run)
    if as_json:
        sys.stdout.write(json.dumps(progress, indent=2) + "\n")
    else:
        print_status(progress, _console())


@app.command()
def report(run: Run) -> None:
    """Regenerate RUN/front.json and RUN/report.html from the store."""
    from automerge.commands.search import write_reports

    console = _console()
    for path in write_reports(run):
        console.print(str(path), markup=False, soft_wrap=True)


@app.command("export-trials")
def export_trials(
    run: Run,
    file_format: Annotated[
        str, typer.Option("--format", help="csv, jsonl or parquet.", metavar="FORMAT")
    ] = "csv",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        _option("The file to write. Default: RUN/trials.FORMAT.", "--out", metavar="FILE"),
    ] = None,
) -> None:
    """Write a table with one row per trial, even while the study runs."""
    from automerge.commands.export_trials import write_trials

    path = write_trials(run, file_format, out)
    _console().print(str(path), markup=False, soft_wrap=True)


@app.command()
def dashboard(
    run: Run,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="On 127.0.0.1.")] = 8080,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve/--no-serve", help="Start the dashboard, or only write RUN/optuna.journal."
        ),
    ] = True,
) -> None:
    """Show a study in optuna-dashboard, on this machine only."""
    from automerge.commands import dashboard as shown

    path = shown.write_optuna_storage(run)
    _console().print(str(path), markup=False, soft_wrap=True)
    if serve:
        shown.serve(path, port)


@bench.command("merge")
def bench_merge(
    shape: Annotated[str, _option("tiny, 0.5b, 1.5b, 3b, 7b or 8b.", "--shape")] = "0.5b",
    sources: Annotated[int, _option("Number of fine-tunes.", "--sources")] = 3,
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        _option("A method; may be given more than once. Default: the common ones.", "--method"),
    ] = None,
    repeats: Annotated[int, _option("Timed merges per method.", "--repeats")] = 5,
    device: Annotated[str, _option("auto, cpu or cuda.", "--device")] = "auto",
    as_json: Annotated[bool, _option("Print JSON.", "--json")] = False,
) -> None:
    """Time merging into a live model of random weights, against a plain copy of the same bytes."""
    from automerge.commands.bench import print_merge_times

    print_merge_times(_console(), shape, sources, tuple(method or ()), repeats, device, as_json)


@bench.command("score")
def bench_score(
    shape: Annotated[
        Text, _option("Random weights: tiny, 0.5b, 1.5b, ... Default: the demo's.", "--shape")
    ] = None,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        _option("A multiple-choice task of the demo; may be given more than once.", "--task"),
    ] = None,
    context: Annotated[
        Optional[int],  # noqa: UP045
        _option("Synthetic items: tokens before the choices.", "--context"),
    ] = None,
    choice: Annotated[
        Optional[int],  # noqa: UP045
        _option("Synthetic items: tokens in each of the four choices.", "--choice"),
    ] = None,
    fewshot: Annotated[
        int, _option("Few-shot examples (the same for every item).", "--fewshot")
    ] = 0,
    items: Annotated[int, _option("Items per task.", "--items")] = 300,
    batch_size: Annotated[int, _option("Requests per batch.", "--batch-size")] = 64,
    repeats: Annotated[int, _option("Timed candidates.", "--repeats")] = 5,
    device: Annotated[str, _option("auto, cpu or cuda.", "--device")] = "auto",
    as_json: Annotated[bool, _option("Print JSON.", "--json")] = False,
) -> None:
    """Time scoring a merged model, against stock lm-eval and the minimum number of tokens."""
    from automerge.commands.bench import print_score_times

    print_score_times(
        _console(),
        shape,
        tuple(task or ()),
        context,
        choice,
        fewshot,
        items,
        batch_size,
        repeats,
        device,
        as_json,
    )


@app.command()
def selftest(
    chaos: Annotated[
        bool,
        typer.Option("--chaos", help="Also kill drivers, workers and exports, and fill the disk."),
    ] = False,
    times: Annotated[int, typer.Option("--times", min=1, help="Injections of each fault.")] = 3,
) -> None:
    """Search the demo on this machine and check that faults lose nothing.

    Takes a minute, or a few with --chaos. Exits with code 1 if any check fails.
    """
    from automerge.commands.selftest import selftest as run_selftest

    if not run_selftest(_console(), chaos=chaos, times=times):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print automerge's version."""
    from importlib.metadata import version as installed

    sys.stdout.write(f"automerge {installed('automerge-llm')}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code (see docs/exit_codes.md)."""
    limit_threads()
    from automerge.text.terminal import bear_any_encoding

    bear_any_encoding()
    explain_bus_errors()
    with stopping_at_once():
        sys.exit(_guarded(lambda: app(arguments, standalone_mode=False)))


def _guarded(command: Callable[[], object]) -> int:
    """Turn what a command raises into one message and an exit code; only bugs show a traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        describe = getattr(error, "format_message", error.__str__)
        return _complain(describe(), 2)
    except _Interrupted as error:
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


def _console() -> Console:
    from automerge.text.terminal import Plain

    return Plain(highlight=False)


def _load(path: Path | None, given: Mapping[str, object], console: Console) -> StudyConfig:
    """Load the configuration: the file named, the one found here, options alone, or the demo's."""
    from automerge.config import load_with_options

    if path is None and "base" not in given:
        here = Path(DEFAULT_CONFIG)
        if here.exists():
            path = here
        elif "model" in given or "task" in given:
            raise ConfigError(
                f"--model and --task need a --base, or a configuration file ({DEFAULT_CONFIG})"
            )
        else:
            from automerge import demo

            path = demo.CONFIG
            console.print(
                f"No configuration given and no ./{DEFAULT_CONFIG} here: searching the built-in "
                "demo.",
                soft_wrap=True,
            )
    loaded = load_with_options(path, given)
    for note in loaded.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    return loaded


def _command_line() -> str:
    import shlex

    return redact(shlex.join(["automerge", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
