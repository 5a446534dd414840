"""`automerge bench`."""

from __future__ import annotations

from typing import Annotated, Optional

from automerge.cli.options import Json, Text, console, option

Shape = Annotated[
    Text,
    option(
        "Random weights: tiny, 0.5b, 1.5b, ... Default: the demo's.",
        "--shape",
        metavar="SIZE",
    ),
]
Tasks = Annotated[
    Optional[list[str]],  # noqa: UP045
    option(
        "A multiple-choice task of the demo; may be given more than once.",
        "--task",
        metavar="TASK",
    ),
]
Context = Annotated[
    Optional[int],  # noqa: UP045
    option("Synthetic items: tokens before the choices.", "--context", metavar="N"),
]
Choice = Annotated[
    Optional[int],  # noqa: UP045
    option("Synthetic items: tokens in each of the four choices.", "--choice", metavar="N"),
]
ItemsPerTask = Annotated[int, option("Items per task.", "--items", metavar="N", default=True)]
BatchSize = Annotated[
    int,
    option(
        "Requests per batch.",
        "--batch-size",
        metavar="N",
        default=True,
    ),
]
Repeats = Annotated[
    int,
    option(
        "Timed candidates.",
        "--repeats",
        metavar="N",
        default=True,
    ),
]
Device = Annotated[str, option("auto, cpu or cuda.", "--device", metavar="DEVICE", default=True)]


def bench_merge(
    shape: Annotated[
        str,
        option(
            "tiny, 0.1b, 0.5b, 1.5b, 3b, 7b or 8b.",
            "--shape",
            metavar="SIZE",
        ),
    ] = "0.5b",
    sources: Annotated[
        int,
        option(
            "Number of fine-tunes.",
            "--sources",
            metavar="N",
            default=True,
        ),
    ] = 3,
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        option(
            "A method; may be given more than once. Default: the common ones.",
            "--method",
            metavar="NAME",
        ),
    ] = None,
    repeats: Annotated[
        int,
        option(
            "Timed merges per method.",
            "--repeats",
            metavar="N",
            default=True,
        ),
    ] = 5,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time merging into a live model of random weights, against a plain copy of the same bytes."""
    from automerge.commands.bench import print_merge_times

    print_merge_times(console(), shape, sources, tuple(method or ()), repeats, device, as_json)


def bench_score(
    shape: Shape = None,
    task: Tasks = None,
    context: Context = None,
    choice: Choice = None,
    fewshot: Annotated[
        int,
        option(
            "Few-shot examples (the same for every item).",
            "--fewshot",
            metavar="N",
            default=True,
        ),
    ] = 0,
    items: ItemsPerTask = 300,
    batch_size: BatchSize = 64,
    repeats: Repeats = 5,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time scoring a merged model, against stock lm-eval and the minimum number of tokens."""
    from automerge.commands.bench import print_score_times

    print_score_times(
        console(),
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


def bench_slopes(
    shape: Shape = None,
    task: Tasks = None,
    context: Context = None,
    choice: Choice = None,
    items: ItemsPerTask = 100,
    batch_size: BatchSize = 64,
    repeats: Repeats = 5,
    method: Annotated[
        str,
        option(
            "The method that candidates are merged by.",
            "--method",
            metavar="NAME",
        ),
    ] = "task_arithmetic",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time measurements with slopes, against a forward pass over the same items and the floor."""
    from automerge.commands.bench import print_slope_times

    print_slope_times(
        console(),
        shape,
        tuple(task or ()),
        context,
        choice,
        items,
        batch_size,
        repeats,
        method,
        device,
        as_json,
    )


def bench_generate(
    shape: Shape = None,
    fewshot: Annotated[
        int,
        option(
            "Few-shot examples of 130 tokens (the same for every item).",
            "--fewshot",
            metavar="N",
            default=True,
        ),
    ] = 5,
    items: Annotated[int, option("Items.", "--items", metavar="N", default=True)] = 100,
    mean: Annotated[
        int,
        option(
            "Mean length of an answer, in tokens.",
            "--mean",
            metavar="N",
            default=True,
        ),
    ] = 200,
    longest: Annotated[
        int,
        option(
            "Most tokens of an answer.",
            "--longest",
            metavar="N",
            default=True,
        ),
    ] = 400,
    batch_size: BatchSize = 32,
    repeats: Repeats = 3,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time generated answers of a merged model, against lm-eval's own way and the fewest steps."""
    from automerge.commands.bench import print_generation_times

    print_generation_times(
        console(), shape, fewshot, items, mean, longest, batch_size, repeats, device, as_json
    )
