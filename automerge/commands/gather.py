"""`automerge gather`: evidence from models and a text, for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from automerge.commands.bars import progress_bars
from automerge.commands.named_texts import named_texts
from automerge.errors import ConfigError, Fault, nearest
from automerge.evidence import KINDS
from automerge.files.align import align_fault
from automerge.files.yaml_file import Plain, dump_yaml
from automerge.recipe import BASE
from automerge.session.gathering import GatherSettings, gather
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

NOTHING = "none"
"""The kind of evidence that is none: for alignments alone."""


def gather_command(
    models: Sequence[str],
    kind: str,
    texts: Sequence[str],
    align: Sequence[str],
    settings: GatherSettings,
    console: Console,
) -> None:
    """Gather evidence from models, the base first, and print a recipe's `evidence` and `align`.

    Where every text is of a named model, only those models' evidence is gathered. Of the kind
    `NOTHING`, sources are only aligned.
    """
    from automerge.checkpoints import alignments
    from automerge.commands.announcing import announcing
    from automerge.inspection.examine import name_models
    from automerge.session.matching import TextReading
    from automerge.session.preflight import open_models

    if kind not in (*KINDS, NOTHING):
        raise ConfigError(f"unknown kind of evidence {kind!r}{nearest(kind, (*KINDS, NOTHING))}")
    named = name_models(models)
    base, *sources = named
    read = {BASE if name == base else name: path for name, path in named_texts(texts).items()}
    faults = [
        Fault(f"--text {name}=…: there is no model {name!r}{nearest(name, sources)}")
        for name in read
        if name is not None and name not in (BASE, *sources)
    ]
    aligned, wrong = _alignments(align, sources)
    if kind == NOTHING and not align:
        wrong.append(Fault(f"--kind {NOTHING} is for alignments alone: add --align KIND"))
    if faults := [*faults, *wrong]:
        raise ConfigError(faults)
    with progress_bars(console) as show:
        opened = open_models(
            {BASE: named[base], **{n: named[n] for n in sources}},
            BASE,
            lambda _: None,
            align=aligned,
            note=announcing(console),
            reading=TextReading(read, settings, show),
        )
        aligned = alignments(opened.checkpoints)
        folders = {name: folder.path for name, folder in opened.folders.items()}
        names = tuple(name for name in folders if None in read or name in read)
        found = (
            {} if kind == NOTHING else gather(folders, names, kind, read, settings, show, aligned)
        )
    plain: dict[str, Plain] = {"align": aligned} if aligned else {}
    if found:
        plain = {"evidence": {kind: {n: file.digest for n, file in found.items()}}, **plain}
    say(console, dump_yaml(plain), end="")
    for name, file in found.items():
        say(console, f"# {name}: {file.path}")


def _alignments(texts: Sequence[str], sources: Sequence[str]) -> tuple[dict[str, str], list[Fault]]:
    """Return how sources are aligned, by name, and what is wrong with the texts."""
    found: dict[str, str] = {}
    faults = []
    for text in texts:
        name, equals, kind = text.rpartition("=")
        if equals and name not in sources:
            faults.append(Fault(f"--align {text}: there is no source {name!r}"))
        elif (fault := align_fault(kind)) is not None:
            faults.append(Fault(f"--align {text}: {fault}"))
        found |= {name: kind} if equals else dict.fromkeys(sources, kind)
    return found, faults
