"""`automerge inspect`: models → a table, JSON or a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from automerge.commands.bars import progress_bars
from automerge.commands.named_texts import named_texts
from automerge.errors import PreflightError
from automerge.files.atomic import write_atomically
from automerge.text.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console


def inspect_models(
    models: Sequence[str],
    weights: bool,
    as_json: bool,
    html: Path | None,
    console: Console,
    task: str | None = None,
    scoring: Mapping[str, object] = MappingProxyType({}),
    text: Path | None = None,
    collapse: Sequence[str] = (),
    gradients: Sequence[str] = (),
) -> bool:
    """Show how models, the base first, relate; return whether all can be merged.

    With a `text`, hidden states are compared on it. With texts to `collapse` on, deviations of the
    sources' average are compared with theirs. With texts for `gradients`, the base's gradients on
    them are compared with each other and with task vectors. With a `task`, models on the lines
    between them are scored, with the options of `scoring`.

    Raises ConfigError, or PreflightError for models that cannot be read.
    """
    from automerge.commands.announcing import announcing
    from automerge.inspection import InspectionText, examine, html_page, name_models, plain
    from automerge.text.terminal import Plain

    named = name_models(models)
    texts = named_texts(collapse, "--collapse")
    tasks = named_texts(gradients, "--gradients")
    device = str(scoring.get("device", "auto"))
    errors = Plain(stderr=True)
    with progress_bars(errors) as show:
        found = examine(
            named,
            weights,
            lambda done, total: show("reading weights", done, total),
            announcing(errors),
        )
        if text is not None:
            from automerge.inspection.similarity import similarities

            similar = similarities(
                named, text, device, lambda done, total: show("hidden states", done, total)
            )
            found = replace(found, similarities=similar)
        if texts and found.mergeable:
            from automerge.inspection.collapse import collapses

            collapsed = collapses(
                named, texts, device, lambda done, total: show("averages", done, total)
            )
            found = replace(found, collapses=collapsed)
        if tasks and found.mergeable:
            from automerge.inspection.gradients import gradients as compare_gradients

            compared = compare_gradients(
                named, tasks, device, lambda done, total: show("gradients", done, total)
            )
            found = replace(found, gradients=compared)
        if task is not None and found.mergeable:
            from automerge.inspection.scan import scan

            scans = scan(
                named, task, scoring, lambda done, total: show("scoring models", done, total)
            )
            found = replace(found, scans=scans)
    if as_json:
        sys.stdout.write(redact(json.dumps(plain(found), indent=2, allow_nan=False)) + "\n")
    else:
        console.print(InspectionText(found))
    if html is not None:
        if not html.absolute().parent.is_dir():
            raise PreflightError(f"{html}: cannot be written: there is no folder {html.parent}")
        write_atomically(html, html_page(found))
    return found.mergeable
