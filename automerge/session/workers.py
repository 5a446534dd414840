"""Workers of a study: what each is told, and where they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.config import StudyConfig
from automerge.errors import PreflightError
from automerge.evaluation.base import ITEMS_FOLDER, TASKS_FOLDER
from automerge.executors import EXECUTORS, Executor, Files, Start, Worker
from automerge.extensions import installed
from automerge.files.align import Align
from automerge.recipe import BASE, CALIBRATED_BY
from automerge.session.panel import study_panel
from automerge.store.record import aligned_by

if TYPE_CHECKING:
    from automerge.session.examine import Examined
    from automerge.worker.worker import WorkerSpec


def start_workers(
    config: StudyConfig,
    run: Path,
    n_layers: int,
    slopes: bool,
    found: Examined,
    note: Callable[[str], None],
) -> Executor:
    """Start the workers of a study.

    Args:
        config: its settings.
        run: the run folder.
        n_layers: the base's.
        slopes: whether jobs may want slopes.
        found: its models and tasks.
        note: told what to say while no worker is up.
    """
    from automerge.checkpoints.symmetries import kept
    from automerge.evidence import cache_folder
    from automerge.worker.worker import MergeWorker, WorkerSpec, choose_device, expected_identity

    launcher = EXECUTORS[config.executor]
    evaluation = config.evaluation
    device = evaluation.device if config.ray_address else choose_device(evaluation.device)
    asked = most_asked(config, n_layers)
    spec = WorkerSpec(
        models=dict(found.folders),
        digests={model.name: model.digest for model in found.models},
        align=aligned_by(found.models),
        base=BASE,
        panel=study_panel(config),
        run=run,
        dtype=evaluation.dtype,
        device=device,
        threads=1 if launcher.parallel and device == "cpu" else None,
        methods=asked.methods,
        more_layers=asked.more_layers,
        n_experts=asked.n_experts,
        calibrated=calibrated_tokens(config, found.inputs.evidence),
        slopes=slopes,
        gpus=config.gpus_per_worker,
        extensions=installed(config.extensions),
        evidence=(cache_folder(),) if found.inputs.evidence else (),
        alignments=(kept.cache_folder(),) if aligned_by(found.models) else (),
    )
    digests = {d for by_source in found.inputs.evidence.values() for d in by_source.values()}
    return launcher.start(
        Start(
            partial(MergeWorker, spec, found.tasks, found.watch)
            if launcher.in_driver
            else WorkerBuilder(spec, tuple(sorted(digests))),
            workers=config.workers,
            gpus=0 if device == "cpu" else config.gpus_per_worker,
            address=config.ray_address,
            expected=expected_identity({m.name: m.sample for m in found.models}),
            note=note,
        )
    )


@dataclass(frozen=True)
class WorkerBuilder:
    """Builds workers that live elsewhere, and knows what they read; see `Travelling`."""

    spec: WorkerSpec
    evidence: tuple[str, ...]
    """Digests of the evidence that recipes may name."""

    def __call__(self) -> Worker:
        from automerge.worker.worker import MergeWorker

        return MergeWorker(self.spec)

    @property
    def files(self) -> tuple[Files, ...]:
        """Models, the run folder's copies of what tasks read, evidence, and alignments."""
        from automerge.checkpoints.contents import DECISIVE
        from automerge.checkpoints.symmetries import kept
        from automerge.evidence.file import ENDING

        models = (Files(path, DECISIVE) for path in self.spec.models.values())
        tasks = tuple(f"{folder}/**/*" for folder in (TASKS_FOLDER, ITEMS_FOLDER))
        named = tuple(f"{digest}{ENDING}" for digest in self.evidence)
        evidence = (Files(folder, named) for folder in self.spec.evidence)
        digests = (Align.parse(text).digest for text in self.spec.align.values())
        kept_as = tuple(f"{digest}{kept.ENDING}" for digest in digests)
        alignments = (Files(folder, kept_as) for folder in self.spec.alignments)
        return (*models, Files(self.spec.run, tasks), *evidence, *alignments)

    def relocated(self, moved: Mapping[Path, Path]) -> WorkerBuilder:
        return replace(self, spec=self.spec.relocated(moved))


@dataclass(frozen=True)
class Asked:
    """What recipes of a study may ask of a worker's memory: methods, and more than the base has."""

    methods: tuple[str, ...]
    more_layers: int
    n_experts: int


def most_asked(config: StudyConfig, n_layers: int) -> Asked:
    """Return the most that recipes may ask for; the base has `n_layers` layers."""
    recipes = [named.recipe for named in config.recipes]
    own = [method for recipe in recipes for method in recipe.all_methods]
    deeper = [sum(piece.n_layers for piece in recipe.slices) - n_layers for recipe in recipes]
    experts = [len(recipe.mixture.experts) for recipe in recipes if recipe.mixture is not None]
    experts += [recipe.experts.count for recipe in recipes if recipe.experts is not None]
    layers = config.search.layers
    experts += [len(config.trained)] if layers.mixture is not None else []
    experts += layers.experts.count if layers.experts is not None else ()
    return Asked(
        tuple(dict.fromkeys([*config.search.methods, *own])),
        max([layers.added(n_layers), *deeper]),
        max(experts, default=0),
    )


def calibrated_tokens(config: StudyConfig, evidence: Mapping[str, Mapping[str, str]]) -> int:
    """Return how many tokens a merge may be calibrated on, in a batch with its padding; 0 if none.

    Args:
        config: the study.
        evidence: what was gathered, kind → source → digest.
    """
    from automerge.evidence import EvidenceFolders, cache_folder

    named = [evidence, *(named.recipe.evidence for named in config.recipes)]
    digests = {digest for each in named for digest in each.get(CALIBRATED_BY, {}).values()}
    files = EvidenceFolders([cache_folder()])
    most = 0
    for digest in sorted(digests):
        with suppress(PreflightError):  # what is not there is refused by the recipes that name it
            lengths = [len(piece) for piece in files[digest].pieces]
            most = max(most, len(lengths) * max(lengths, default=0))
    return most


def device_in_words(config: StudyConfig) -> str:
    """Return what models run on: "cpu", "cuda", or what is asked of another cluster's workers."""
    from automerge.worker.worker import choose_device

    asked = config.evaluation.device
    if config.ray_address:
        return f"a Ray cluster (device: {asked})"
    return choose_device(asked)


def scoring_dtype(config: StudyConfig, stored: str) -> str:
    """Return the dtype of scoring, by torch's name."""
    from automerge.worker.worker import choose_device

    evaluation = config.evaluation
    if evaluation.dtype != "auto":
        return evaluation.dtype
    return "float32" if choose_device(evaluation.device) == "cpu" else stored
