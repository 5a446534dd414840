"""`automerge search`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from automerge.cli.options import (
    Extensions,
    Text,
    base_option,
    console,
    include_path_option,
    model_option,
    option,
    switch,
)
from automerge.errors import ConfigError
from automerge.files.shared import shared_words
from automerge.text.redaction import redact
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.config import StudyConfig

Track = Annotated[
    Optional[list[str]],  # noqa: UP045
    option(
        "Report to mlflow, tensorboard, trackio or wandb; may be given more than once.",
        "--track",
        metavar="TRACKER",
    ),
]
NoMenu = Annotated[
    bool, switch("Exit without asking what to do next, even on a terminal.", "--no-menu")
]
DryRun = Annotated[
    bool, switch("Say what the search will cost, from one candidate; keep nothing.", "--dry-run")
]
DEFAULT_CONFIG = "automerge.yaml"
NOT_OF_THE_DEMO = (
    "model",
    "task",
    "include_path",
    "constraint",
    "name",
    "warm_start",
    "apply_chat_template",
    "allow_task_code",
    "allow_code_eval",
)
"""Options that mean a study of one's own, by their names in `OPTIONS`."""


_WHAT, _LIMITS, _HOW = "What is merged, and for what", "When it ends", "How it searches"
_SCORING, _PLACE = "How candidates are scored", "Where it runs, and what it writes"


def search(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="CONFIG",
            help=f"A study's YAML. Default: ./{DEFAULT_CONFIG}; without any YAML here, the demo.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        Text,
        option(
            "Number of recipes to measure.", "--budget", metavar="N", panel=_LIMITS, default="200"
        ),
    ] = None,
    max_time: Annotated[
        Text,
        option(
            "Finish within about this time, e.g. 8h or 90min.",
            "--max-time",
            metavar="TIME",
            panel=_LIMITS,
        ),
    ] = None,
    max_items: Annotated[
        Text,
        option(
            "Score at most this many items in total.", "--max-items", metavar="N", panel=_LIMITS
        ),
    ] = None,
    patience: Annotated[
        Text,
        option(
            "End after this many proposals in a row that win nothing.",
            "--patience",
            metavar="N",
            panel=_LIMITS,
        ),
    ] = None,
    constraint: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "A bound such as 'mmlu >= best_parent - 0.01'; may be given more than once.",
            "--constraint",
            metavar="BOUND",
            panel=_WHAT,
        ),
    ] = None,
    base: Annotated[Text, base_option(_WHAT)] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        model_option(_WHAT),
    ] = None,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "An lm-eval task to optimise for, as TASK, TASK:METRIC or TASK:METRIC:DIRECTION; may "
            "be given more than once.",
            "--task",
            metavar="TASK",
            panel=_WHAT,
        ),
    ] = None,
    include_path: Annotated[Text, include_path_option(_WHAT)] = None,
    space: Annotated[
        Text,
        option(
            "The search space: a name from `automerge space list`, or a file.",
            "--space",
            metavar="NAME_OR_FILE",
            panel=_HOW,
        ),
    ] = None,
    sampler: Annotated[
        Text,
        option(
            "auto, descent, gp, cma, tpe, nsga2, nsga3, map, de, qd or random.",
            "--sampler",
            metavar="NAME",
            panel=_HOW,
            default="auto",
        ),
    ] = None,
    warm_start: Annotated[
        Text,
        option(
            "An earlier study's folder, whose front is measured first, or a reproduce.json.",
            "--warm-start",
            metavar="RUN_OR_FILE",
            panel=_HOW,
        ),
    ] = None,
    slopes: Annotated[
        Text,
        option(
            "auto (where samplers can follow them) or off.",
            "--slopes",
            metavar="WHEN",
            panel=_HOW,
            default="auto",
        ),
    ] = None,
    seed: Annotated[
        Text,
        option(
            "Seed of every proposal and random mask.",
            "--seed",
            metavar="N",
            panel=_HOW,
            default="0",
        ),
    ] = None,
    out: Annotated[
        Text,
        option("The study's folder.", "--out", metavar="DIR", panel=_PLACE, default="runs/NAME"),
    ] = None,
    name: Annotated[
        Text, option("The study's name.", "--name", metavar="NAME", panel=_PLACE)
    ] = None,
    executor: Annotated[
        Text,
        option(
            "local (in this process) or ray.",
            "--executor",
            metavar="NAME",
            panel=_PLACE,
            default="local",
        ),
    ] = None,
    workers: Annotated[
        Text, option("Number of Ray workers.", "--workers", metavar="N", panel=_PLACE)
    ] = None,
    ray_address: Annotated[
        Text,
        option(
            "A running Ray cluster; by default Ray is started here.",
            "--ray-address",
            metavar="ADDRESS",
            panel=_PLACE,
        ),
    ] = None,
    deterministic: Annotated[
        Optional[bool],  # noqa: UP045
        option(
            "Make the trials independent of worker timing.",
            "--deterministic",
            metavar="",
            panel=_HOW,
        ),
    ] = None,
    device: Annotated[
        Text,
        option("auto, cpu or cuda.", "--device", metavar="DEVICE", panel=_SCORING, default="auto"),
    ] = None,
    dtype: Annotated[
        Text,
        option(
            "Precision of scoring: auto, float32, bfloat16 or float16.",
            "--dtype",
            metavar="DTYPE",
            panel=_SCORING,
            default="auto",
        ),
    ] = None,
    batch_size: Annotated[
        Text,
        option(
            "Requests per batch: a number, or auto, as many as memory allows.",
            "--batch-size",
            metavar="N",
            panel=_SCORING,
            default="32",
        ),
    ] = None,
    items_per_candidate: Annotated[
        Text,
        option(
            "Fresh search items per objective for each candidate: a number, or full.",
            "--items-per-candidate",
            metavar="N",
            panel=_SCORING,
            default="200",
        ),
    ] = None,
    export: Annotated[
        Text,
        option(
            "Which models to write at the end: best (the one to take), front, knee, adapter or "
            "none.",
            "--export",
            metavar="WHICH",
            panel=_PLACE,
            default="best",
        ),
    ] = None,
    apply_chat_template: Annotated[
        Optional[bool],  # noqa: UP045
        option(
            "Wrap prompts in the base's chat template.",
            "--apply-chat-template",
            metavar="",
            panel=_WHAT,
        ),
    ] = None,
    allow_task_code: Annotated[
        Optional[bool],  # noqa: UP045
        option("Let your task files run Python.", "--allow-task-code", metavar="", panel=_WHAT),
    ] = None,
    allow_code_eval: Annotated[
        Optional[bool],  # noqa: UP045
        option(
            "Let tasks run model-written code, sandboxed.",
            "--allow-code-eval",
            metavar="",
            panel=_WHAT,
        ),
    ] = None,
    track: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "Report to mlflow, tensorboard, trackio or wandb; may be given more than once.",
            "--track",
            metavar="TRACKER",
            panel=_PLACE,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        switch(
            "Say what the search will cost, from one candidate; keep nothing.",
            "--dry-run",
            panel=_PLACE,
        ),
    ] = False,
    no_menu: NoMenu = False,
    notify: Annotated[
        Text,
        option(
            "A shell command to run when the search ends; AUTOMERGE_STATE says how it ended.",
            "--notify",
            metavar="COMMAND",
            panel=_PLACE,
        ),
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
        "patience": patience,
        "constraint": constraint,
        "base": base,
        "model": model,
        "task": task,
        "include_path": include_path,
        "space": space,
        "sampler": sampler,
        "slopes": slopes,
        "warm_start": warm_start,
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
        "track": track,
    }
    given = {key: value for key, value in overrides.items() if value is not None}
    screen = console()
    loaded = _load(config, given, screen)
    if dry_run:
        from automerge.commands.dry_run import print_cost

        print_cost(loaded, screen)
        return

    _search_and_offer(loaded, screen, no_menu, notify)


def demo(
    budget: Annotated[
        str, typer.Option("--budget", help="Number of recipes to measure.", metavar="N")
    ] = "40",
    seed: Annotated[
        Text, option("Seed of every proposal and random mask.", "--seed", metavar="N", default="0")
    ] = None,
    out: Annotated[
        Text, option("The study's folder.", "--out", metavar="DIR", default="runs/demo")
    ] = None,
    track: Track = None,
    dry_run: DryRun = False,
    no_menu: NoMenu = False,
) -> None:
    """Search the built-in demo: four small models and their tasks, in a few minutes.

    Run the same command to resume it; raise --budget to extend it.
    """
    from automerge import demo as shipped
    from automerge.config import load_with_options

    given = {"budget": budget, "seed": seed, "out": out, "track": track}
    loaded = load_with_options(
        shipped.CONFIG, {key: value for key, value in given.items() if value is not None}
    )
    if dry_run:
        from automerge.commands.dry_run import print_cost

        print_cost(loaded, console())
        return
    _search_and_offer(loaded, console(), no_menu)


def _search_and_offer(
    config: StudyConfig, screen: Console, no_menu: bool, notify: str | None = None
) -> None:
    """Search, then offer next steps if run on a terminal."""
    from automerge.commands.search import run_search
    from automerge.text.terminal import somebody_is_there

    if code := run_search(config, screen, _command_line(), notify):
        raise typer.Exit(code)
    if not no_menu and somebody_is_there():
        from automerge.commands.menu import menu

        menu(Path(config.out), screen)


def _load(path: Path | None, given: Mapping[str, object], screen: Console) -> StudyConfig:
    """Load the configuration: the file named, the one found here, options alone, or the demo's."""
    from automerge.config import load_with_options

    if path is None and "base" not in given:
        here = Path(DEFAULT_CONFIG)
        if here.exists():
            path = here
        else:
            from automerge import demo

            _refuse_demo(given)
            path = demo.CONFIG
            screen.print(
                f"No configuration given and no ./{DEFAULT_CONFIG} here: searching the built-in "
                "demo.",
                soft_wrap=True,
            )
    loaded = load_with_options(path, given)
    for note in loaded.notes:
        say(screen, f"note: {note}")
    return loaded


def _refuse_demo(given: Mapping[str, object]) -> None:
    """Refuse to search the demo where a study of one's own was probably meant."""
    files = sorted(
        file.name
        for file in Path().iterdir()
        if file.suffix in (".yaml", ".yml") and not file.name.startswith(".")
    )
    options = ", ".join(f"--{n.replace('_', '-')}" for n in NOT_OF_THE_DEMO if n in given)
    if not files and not options:
        return
    if options:
        problem = f"no --base, and no ./{DEFAULT_CONFIG}, to go with {options}"
    else:
        problem = f"no configuration given, and no ./{DEFAULT_CONFIG}"
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        remedy = f"name one of the files here ({', '.join(files[:3])}{more}): automerge search FILE"
    else:
        remedy = f"give --base MODEL, or write {DEFAULT_CONFIG} with automerge init"
    raise ConfigError(f"{problem}; {remedy}; the built-in demo is automerge demo")


def _command_line() -> str:
    """Return the command as the study keeps it: without the user's own way to be notified."""
    import shlex

    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word == "--notify":
            next(words, None)
        elif not word.startswith("--notify="):
            kept.append(word)
    return redact(shlex.join(["automerge", *shared_words(kept, Path.cwd())]))
