"""Commands about models: whether they merge, merging by a recipe, statistics, and scores."""

from __future__ import annotations

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
    as_adapter,
    console,
    model_folders,
    switch,
)


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe: automerge's or mergekit's YAML.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="DIR")],
    adapter: Adapter = False,
    rank: Rank = None,
    extension: Extensions = None,
) -> None:
    """Merge models by a recipe, without a search."""
    from automerge.commands.merge import merge_file
    from automerge.extensions import load_extensions

    wanted = as_adapter(adapter, rank)
    load_extensions(extension or (), Path.cwd())
    merge_file(recipe, out, console(), wanted)


def library(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE [NAME=]ADAPTER...", help="A base and LoRA adapters: folders or hub ids."
        ),
    ],
    count: Annotated[
        int, typer.Option("--count", help="How many adapters to make.", min=1, metavar="N")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="DIR")],
    rank: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--rank", help="Their rank; the highest of the pool if not given.", min=1),
    ] = None,
    dimensions: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--dimensions", help="Leading directions that adapters are compared along.", min=1
        ),
    ] = None,
    units: Annotated[
        bool, typer.Option("--units", help="Cluster the ranks of each cluster, as LoRA-LEGO does.")
    ] = False,
) -> None:
    """Merge a pool of LoRA adapters into a few, cluster by cluster, for PEFT's Arrow."""
    from automerge.commands.library import Wanted, make_library

    make_library(models, Wanted(count, rank, dimensions, units), out, console())


def soup(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE [NAME=]MODEL...", help="A base and its fine-tunes: folders or hub ids."
        ),
    ],
    text: Annotated[
        list[str],
        typer.Option("--text", help="What a model was trained on. Repeat.", metavar="NAME=PATH"),
    ],
    like: Annotated[
        Path, typer.Option("--like", help="The text that the soup is for.", metavar="PATH")
    ],
    count: Annotated[
        int, typer.Option("--count", help="How many models to average.", min=1, metavar="N")
    ],
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.", metavar="FILE")],
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu or cuda.", metavar="DEVICE")
    ] = "auto",
) -> None:
    """Average the models whose texts are most like a new one, without labels or a search."""
    from automerge.commands.soup import Wanted, make_soup

    make_soup(models, text, Wanted(like, count, device), out, console())


def reproduce(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A published merge's reproduce.json.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="DIR")],
    model: Models = None,
    extension: Extensions = None,
) -> None:
    """Make a published merge again from the models it was made of, and compare the weights."""
    from automerge.commands.reproduce import reproduce as make_again
    from automerge.extensions import load_extensions

    load_extensions(extension or (), Path.cwd())
    make_again(file, out, model_folders(model), console())


def gather(
    models: Annotated[
        list[str],
        typer.Argument(metavar="BASE [NAME=]MODEL...", help="Models: folders or hub ids."),
    ],
    text: Annotated[
        list[str],
        typer.Option(
            "--text",
            help="A text file, or a folder of .txt and .md files; NAME=PATH for one model. May be "
            "repeated.",
            metavar="[NAME=]PATH",
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="What to gather: activations, base_gradient, base_squared_gradient, gradient, "
            "hidden_state, input_gram, routing, squared_gradient or squared_mask_gradient; none "
            "for an alignment alone.",
            metavar="KIND",
        ),
    ] = "input_gram",
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens to read.", min=1)] = 65_536,
    length: Annotated[int, typer.Option("--length", help="Tokens per sequence.", min=1)] = 512,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu or cuda.", metavar="DEVICE")
    ] = "auto",
    align: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--align",
            help="Align sources with the base first, as a recipe's `align` does; NAME=KIND for one "
            "model. May be repeated.",
            metavar="[NAME=]KIND",
        ),
    ] = None,
) -> None:
    """Gather statistics that methods such as regmean need, and print a recipe's `evidence`."""
    from automerge.commands.gather import gather_command
    from automerge.session.gathering import GatherSettings

    settings = GatherSettings(tokens, length, device)
    gather_command(models, kind, text, align or (), settings, console())


def score(
    model: Annotated[Path, typer.Argument(help="The folder of a model.", metavar="MODEL_DIR")],
    run: Annotated[Path, typer.Option("--run", help="The study's run folder.", metavar="RUN")],
    task: Annotated[str, typer.Option("--task", help="An objective of the study.", metavar="NAME")],
    extension: Extensions = None,
    as_json: Annotated[bool, switch("Print every item's score.", "--json")] = False,
) -> None:
    """Score a model on the test items of a study's task, as the study did."""
    from automerge.commands.score import score_command

    score_command(model, run, task, extension or [], as_json, console())


def convert(
    file: Annotated[Path, typer.Argument(help="A file for mergekit or mergekit-evolve.")],
) -> None:
    """Convert a mergekit file to a recipe, or a mergekit-evolve file to a study, and print it."""
    from automerge.commands.convert import converted

    sys.stdout.write(converted(file))


def inspect(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base: a folder or hub id.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SOURCE...", help="Fine-tunes or LoRA adapters: folders or hub ids."
        ),
    ],
    weights: Annotated[
        bool, switch("Read all weights: task vectors, conflicts, NaN.", "--weights")
    ] = False,
    as_json: Json = False,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--html", help="Also write an HTML page.", metavar="FILE"),
    ] = None,
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--scan",
            help="Score models on the way from the base to each source, whole and one layer at a "
            "time.",
            metavar="TASK[:METRIC[:DIRECTION]]",
        ),
    ] = None,
    cka: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--cka",
            help="Compare hidden states with the base's, layer by layer, on a text file or a "
            "folder of them.",
            metavar="TEXT",
        ),
    ] = None,
    collapse: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--collapse",
            help="Compare how much units vary in the average of the sources and in each of them, "
            "on a text; NAME=TEXT for one source. May be repeated.",
            metavar="[NAME=]TEXT",
        ),
    ] = None,
    gradients: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--gradients",
            help="Compare the base's gradients on the sources' texts, and what each task vector "
            "does for each text; NAME=TEXT for one source. May be repeated.",
            metavar="[NAME=]TEXT",
        ),
    ] = None,
    items: Annotated[
        int, typer.Option("--items", help="Items to score them on.", min=8, metavar="N")
    ] = 200,
    include_path: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--include-path", help="Your own lm-eval tasks.", metavar="FOLDER"),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu or cuda.", metavar="DEVICE")
    ] = "auto",
) -> None:
    """Check whether models can be merged and how they relate.

    Exits with code 3 if a source cannot be merged as is.
    """
    from automerge.commands.inspect import inspect_models

    scoring = {"items_per_candidate": items, "include_path": include_path, "device": device}
    models = [base, *sources]
    texts = collapse or [], gradients or []
    if not inspect_models(models, weights, as_json, html, console(), task, scoring, cka, *texts):
        raise typer.Exit(3)
