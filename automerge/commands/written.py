"""What the end of a search says about models: which are written, and how to get others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from automerge.report.choice import choose
from automerge.report.study import Study
from automerge.store.result import ADAPTERS, MODELS, count

_MARGIN = 13
"""Columns before what a line says."""


def written_lines(study: Study, run: Path, export: str) -> Iterator[str]:
    """Yield lines about the models of a study that has ended.

    Args:
        study: the study, read after its models were written.
        run: its folder, as commands are to name it.
        export: which models the configuration asked for.
    """
    n = len(study.front)
    command = f"automerge export {shlex.quote(str(run))} --trial"
    if not n:
        yield _line("models", "none is written, as no merge is on the front")
        yield _line("", f"any trial: {command} N")
        return
    if export == "none":
        yield _line("models", "none is written, as export: none asks")
        yield _line("", f"the best on the front: {command} best")
        return
    if export == "adapter":
        if (run / ADAPTERS).is_dir():
            yield _line("adapters", str(run / ADAPTERS))
        yield _line("", f"as whole models: {command} best")
        return
    if export == "front":
        yield _line("models", f"{run / MODELS}, {count(n, 'merge')} on the front")
        return
    written = study.best if export == "best" else study.knee
    if written is None:
        yield _line("models", "none is written, as none could be compared with a parent")
        yield _line("", f"any trial: {command} N")
        return
    yield _line("model", str(run / MODELS / written.name))
    taken = choose(study.summary)
    if taken is not None and not taken.beats_parent:
        yield _line("", "written although no merge measurably beats the best parent")
    yield _line("", f"any other: {command} N")
    if n > 1:
        yield _line("", f"all {n} on the front: {command} front")


def _line(head: str, text: str) -> str:
    return f"{head:{_MARGIN}}{text}"
