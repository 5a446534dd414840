"""`automerge refine`: a recipe file and plain text → a better recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.interrupt import Interrupt
from automerge.commands.model_folder import write_model
from automerge.commands.named_texts import named_texts
from automerge.config.recipe_file import RecipeFile, read_recipe, recipe_text
from automerge.errors import ConfigError, Fault, nearest
from automerge.evidence import EVIDENCE
from automerge.files.atomic import write_atomically
from automerge.methods import METHODS
from automerge.recipe import BASE
from automerge.session.refining import Refined, Refiner, RefineSettings, Watch, texts_for

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from automerge.recipe import Recipe
    from automerge.refinement import Aim, Measure, Progress
    from automerge.session.preflight import Models

UNITS = {
    "kl": "KL divergence from the source, in nats per token",
    "entropy": "entropy of the prediction, in nats per token",
    "nll": "−log p, in nats per token",
}
Z = 1.645
"""Standard errors that a difference must have to count: 5 % of the time by chance, one-sided."""


def refine_file(
    path: Path,
    texts: Sequence[str],
    out: Path,
    settings: RefineSettings,
    export: Path | None,
    console: Console,
) -> int:
    """Improve a recipe's numbers on text and write it; return the exit code.

    Raises:
        ConfigError: the recipe or an option is wrong, or the recipe has nothing to refine.
        PreflightError: models or texts do not allow it, or it does not fit into memory.
    """
    from automerge.checkpoints import ModelWatch, alignments
    from automerge.checkpoints.kinds import require_decoder
    from automerge.commands.announcing import announcing
    from automerge.refinement import explicit
    from automerge.session.preflight import open_models

    _check(settings, path, out)
    named = named_texts(texts)
    file = read_recipe(path)
    explicit(file.recipe, METHODS[file.recipe.method])
    texts_for(file.recipe, named, settings.loss)
    for note in file.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    references = dict(file.alone())
    base = file.recipe.base or BASE
    if base in file.models:
        references[base] = file.models[base]
    reference = base if base in references else file.recipe.models[0]
    folder = path.absolute().parent
    models = open_models(
        references,
        reference,
        file.locate,
        file.recipe.vocabulary,
        align=file.align,
        near=[folder, folder / EVIDENCE],
        note=announcing(console),
    )
    require_decoder(models.checkpoints[models.base], "refining")
    for warning in models.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    watch = ModelWatch({name: folder.path for name, folder in models.folders.items()})
    refiner = Refiner(
        file.recipe, models.checkpoints, reference, [*models.places.values()], folder, settings
    )

    def keep(recipe: Recipe) -> None:
        used = _used(file, recipe, models)
        text = recipe_text(recipe, used, out.stem, alignments(models.checkpoints))
        write_atomically(out, text)

    message = "stopping after this step; press Ctrl-C again to stop immediately"

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    with Interrupt(lambda: say(message)) as interrupt, _shown(console) as shown:
        told = Watch(shown.predicting, shown.step, keep, lambda: interrupt.requested)
        found = refiner.refine(named, told)
    watch.check()
    keep(found.best.recipe if found.best.step else file.recipe)
    console.print(_table(found, settings))
    say(_sentence(found, settings))
    say(f"wrote {out}")
    if export is not None and not interrupt.requested:
        chosen = found.best.recipe if found.best.step else file.recipe
        evidence = [folder, folder / EVIDENCE]
        write_model(
            chosen, models.checkpoints, references, export, watch, console, evidence=evidence
        )
        say(f"wrote {export}")
    return interrupt.exit_code if interrupt.requested else 0


def _check(settings: RefineSettings, path: Path, out: Path) -> None:
    from automerge.refinement import DETAILS, LOSSES

    faults = []
    for option, value, known in (
        ("--loss", settings.loss, LOSSES),
        ("--detail", settings.detail, DETAILS),
    ):
        if value not in known:
            faults.append(Fault(f"{option}: unknown {value!r}{nearest(value, known)}"))
    if not (math.isfinite(settings.rate) and settings.rate > 0):
        faults.append(Fault(f"--rate: expected a number above 0, got {settings.rate:g}"))
    if out.exists() and path.exists() and out.samefile(path):
        faults.append(Fault(f"--out {out} is the recipe itself; choose another file"))
    elif out.is_dir() or not out.absolute().parent.is_dir():
        faults.append(Fault(f"--out {out}: expected a file in a folder that exists"))
    if faults:
        raise ConfigError(faults)


def _used(file: RecipeFile, recipe: Recipe, models: Models) -> dict[str, str]:
    """Return the references that the written recipe needs, those of an adapter's base and of what
    others are aligned with among them."""
    from automerge.checkpoints import is_adapter

    adapters = any(is_adapter(models.folders[name].path) for name in recipe.models)
    owner = [BASE] if (adapters or file.align) and BASE in file.models else []
    return {name: file.models[name] for name in dict.fromkeys([*owner, *recipe.models])}


class _Shown:
    """Shows a bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, bar: Callable[[str, int, int], None] | None) -> None:
        self._console, self._bar = console, bar
        self._best = math.inf

    def predicting(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar("the sources' predictions", done, total)

    def step(self, progress: Progress) -> None:
        if self._bar is not None:
            described = f"loss {progress.loss:.4f}, best {progress.best:.4f}"
            self._bar("steps", progress.step, progress.steps)
            self._bar(described, progress.step, progress.steps)
        elif progress.best != self._best or progress.step == progress.steps:
            self._best = progress.best
            line = f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
            self._console.print(f"{line}best {progress.best:.4f}", markup=False, soft_wrap=True)


@contextmanager
def _shown(console: Console) -> Iterator[_Shown]:
    if not console.is_terminal:
        yield _Shown(console, None)
        return
    from rich.progress import Progress as Bars

    with Bars(console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield _Shown(
            console, lambda text, n, of: bars.update(task, description=text, completed=n, total=of)
        )


def _table(found: Refined, settings: RefineSettings) -> Table:
    """Show every mean before and after, on text that was held back."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"held-out text: {UNITS[settings.loss]}", title_style="")
    table.add_column("source" if settings.loss == "kl" else "text")
    nll = settings.loss != "nll"
    for column in ("before", "after", "change", *(("−log p",) if nll else ()), "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for aim, label in found.labels.items():
        before, after = found.before[aim], found.after[aim]
        change, error = after.difference(before)
        more = (f"{before.mean_nll:.3f} → {after.mean_nll:.3f}",) if nll else ()
        table.add_row(
            Text(label),
            f"{before.loss:.4f}",
            f"{after.loss:.4f}",
            f"{change:+.4f} ± {error:.4f}",
            *more,
            f"{sum(before.positions):,}",
        )
    return table


def _sentence(found: Refined, settings: RefineSettings) -> str:
    """Say what came of it."""
    best = found.best
    moved = f"{found.numbers} number{'s' * (found.numbers != 1)}"
    if best.diverged:
        ended = f"the loss was no longer finite after {best.steps} steps; try a smaller --rate. "
    else:
        ended = ""
    if best.step == 0:
        return f"{ended}No step of {best.steps} made it better: the recipe stays as it was."
    change, error = _overall(found.before, found.after)
    sure = "" if change < -Z * error else ", which may be chance"
    return (
        f"{ended}{moved} moved; after step {best.step} of {settings.steps} the mean is "
        f"{change:+.4f} ± {error:.4f}{sure}"
    )


def _overall(before: Mapping[Aim, Measure], after: Mapping[Aim, Measure]) -> tuple[float, float]:
    """Return the change of the mean of all means, and its standard error.

    Means over one text share its sequences, so their errors are added, not their squares.
    """
    changes = {aim: after[aim].difference(before[aim]) for aim in after}
    mean = math.fsum(change for change, _ in changes.values()) / len(changes)
    by_text: dict[int, float] = {}
    for aim, (_, error) in changes.items():
        by_text[aim.text] = by_text.get(aim.text, 0.0) + error
    return mean, math.sqrt(math.fsum(error**2 for error in by_text.values())) / len(changes)
