"""`automerge soup`: of a pool of models, the recipe of those whose texts are like a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.bars import progress_bars
from automerge.commands.named_texts import named_texts
from automerge.errors import ConfigError, Fault, PreflightError, nearest
from automerge.recipe import BASE, Profile, Recipe, RecipeSource
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Wanted:
    """The text that a soup is for, how many models are averaged, and where the base reads."""

    like: Path
    count: int
    device: str = "auto"


def make_soup(
    models: Sequence[str], texts: Sequence[str], wanted: Wanted, out: Path, console: Console
) -> None:
    """Write the recipe that averages the models whose texts are most like a new one.

    Args:
        models: the base, then fine-tunes or adapters, each NAME=REFERENCE or REFERENCE.
        texts: what each was trained on, or something like it, each NAME=PATH.
        wanted: what the soup is for.
        out: the file to write.
        console: where it is said how alike the texts are.

    Raises:
        ConfigError: with all faults of the arguments.
        PreflightError: a model or text cannot be read, or the file exists.
    """
    from automerge.commands.announcing import announcing
    from automerge.config.recipe_file import write_recipe
    from automerge.inspection.examine import name_models
    from automerge.inspection.likeness import embeddings, likeness, read_passages
    from automerge.inspection.similarity import loaded
    from automerge.session.preflight import open_models

    named = name_models(models)
    base, *names = named
    read = _texts(named_texts(texts), names, wanted)
    if out.exists():
        raise PreflightError(f"{out} exists; name another file with --out")
    passages = {name: read_passages(path) for name, path in read.items()}
    new = read_passages(wanted.like)
    references = {BASE: named[base], **{name: named[name] for name in names}}
    opened = open_models(references, BASE, lambda _: None, note=announcing(console))
    for warning in opened.warnings:
        say(console, f"warning: {warning}")
    model, tokenizer = loaded(references, BASE, BASE, wanted.device)
    known = {}
    with progress_bars(console) as show:
        for number, (name, own) in enumerate(passages.items()):
            show("reading texts", number, len(passages) + 1)
            known[name] = embeddings(model, tokenizer, own)
        found = likeness(known, embeddings(model, tokenizer, new))
        show("reading texts", len(passages) + 1, len(passages) + 1)
    nearest_first = sorted(found, key=lambda name: -found[name])
    chosen = nearest_first[: wanted.count]
    for name in nearest_first:
        say(console, f"{found[name]:6.3f}  {name}{'  in the soup' if name in chosen else ''}")
    share = {"weight": Profile.of(1 / len(chosen))}
    recipe = Recipe("task_arithmetic", tuple(RecipeSource(name, share) for name in chosen), BASE)
    write_recipe(recipe, {name: references[name] for name in (BASE, *chosen)}, out)
    say(console, f"{out}: the average of {', '.join(chosen)}")


def _texts(
    read: Mapping[str | None, Path], names: Sequence[str], wanted: Wanted
) -> dict[str, Path]:
    """Return the text of each model, in order.

    Raises:
        ConfigError: with all faults.
    """
    faults = [
        Fault(f"--text {p}: write NAME={p}, of which model") for n, p in read.items() if not n
    ]
    faults += [
        Fault(f"--text {name}=…: there is no model {name!r}{nearest(name, names)}")
        for name in read
        if name and name not in names
    ]
    without = [name for name in names if name not in read]
    if without:
        faults.append(Fault(f"every model needs a text; add --text {without[0]}=PATH"))
    if not 1 <= wanted.count <= len(names):
        expected = f"expected a number from 1 to {len(names)}, that of the models"
        faults.append(Fault(f"--count: {expected}; got {wanted.count}"))
    if not wanted.like.exists():
        faults.append(Fault(f"--like {wanted.like}: there is no such file or folder"))
    if faults:
        raise ConfigError(faults)
    return {name: read[name] for name in names}
