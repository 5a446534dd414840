"""Refining a recipe: models and texts opened, a live model made, steps followed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from automerge.checkpoints import Checkpoint
from automerge.errors import ConfigError, Fault, PreflightError, nearest
from automerge.evidence import EVIDENCE, EvidenceFolders, cache_folder
from automerge.machine.allocation import is_out_of_memory
from automerge.methods import METHODS
from automerge.recipe import Place, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from automerge.merging import MemoryPlan, ResidentEngine
    from automerge.refinement import Aim, Best, Measure, Progress, Room, Text


@dataclass(frozen=True)
class RefineSettings:
    """What is minimised, over which numbers, and by how many steps of how many tokens.

    `tokens` is per step; `length` is of a sequence, in tokens; `rate` is how far a number goes in
    the first step, as a share of its usual range.
    """

    loss: str = "kl"
    detail: str = "none"
    steps: int = 40
    tokens: int = 4096
    length: int = 512
    rate: float = 0.03
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Watch:
    """What is told while a recipe is refined, and asked whether to stop."""

    predicting: Callable[[int, int], None] = lambda done, total: None
    step: Callable[[Progress], None] = lambda progress: None
    keep: Callable[[Recipe], None] = lambda recipe: None
    stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Refined:
    """The best recipe, and what it and the start score on text that neither steps nor choice saw.

    `labels` name each mean; `numbers` says how many numbers were moved.
    """

    best: Best
    before: Mapping[Aim, Measure]
    after: Mapping[Aim, Measure]
    labels: Mapping[Aim, str]
    numbers: int


def texts_for(recipe: Recipe, named: Mapping[str | None, Path], loss: str) -> dict[str, list[str]]:
    """Say which sources read which text, by the text's name.

    Args:
        recipe: the recipe to refine.
        named: texts by name; the one without, if any, is for all sources that are not named.
        loss: for `kl`, names are those of sources; for other losses they are only shown.

    Raises:
        ConfigError: a name is not a source's, or a source has no text.
    """
    sources = [source.name for source in recipe.sources]
    if loss != "kl":
        return {name or "text": [] for name in named}
    faults = [
        Fault(f"--text {name}=…: the recipe has no source {name!r}{nearest(name, sources)}")
        for name in named
        if name is not None and name not in sources
    ]
    others = [name for name in sources if name not in named]
    if others and None not in named:
        missing = ", ".join(others)
        faults.append(Fault(f"no text for {missing}: add --text NAME=PATH, or --text PATH for all"))
    if faults:
        raise ConfigError(faults)
    shared = {"text": others} if None in named and others else {}
    return {**shared, **{name: [name] for name in named if name is not None}}


class Refiner:
    """A recipe's models in memory, ready to be refined.

    Args:
        recipe: without slices; its method has numbers with slopes.
        checkpoints: of all its models, and of the one named `reference`.
        reference: the model whose folder gives configuration and tokenizer.
        places: of its tensors.
        folder: where the recipe is, for evidence that it names.
        settings: how it is refined.

    Raises:
        ConfigError: the recipe has no number that can be refined.
        PreflightError: it does not fit into memory.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoints: Mapping[str, Checkpoint],
        reference: str,
        places: Sequence[Place],
        folder: Path,
        settings: RefineSettings,
    ) -> None:
        from automerge.refinement import detailed, explicit, numbers

        method = METHODS[recipe.method]
        self.recipe = detailed(explicit(recipe, method), method, places, settings.detail)
        self._numbers = numbers(self.recipe, method)
        self._settings = settings
        self._plan: MemoryPlan
        self._model, self._tokenizer = self._load(checkpoints, reference)
        self._engine: ResidentEngine = self._merger(checkpoints, folder)

    def _load(
        self, checkpoints: Mapping[str, Checkpoint], reference: str
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        import torch
        import transformers

        from automerge.merging import estimate, free_device_bytes, free_host_bytes, plan_memory
        from automerge.worker.worker import choose_device, compute_dtype, load_model, threads_for

        device = choose_device(self._settings.device)
        dtype = compute_dtype("auto", device)
        stored = str(dtype).removeprefix("torch.")
        mixture, groups = self.recipe.mixture, self.recipe.experts
        fewer = 0 if groups is None else groups.count
        need = estimate(
            checkpoints,
            reference,
            stored,
            (self.recipe.method,),
            slopes=True,
            n_experts=fewer if mixture is None else len(mixture.experts),
        )
        self._plan = plan_memory(need, free_host_bytes(), free_device_bytes(device))
        opened = checkpoints[reference]
        model = load_model(opened.path, opened.assets, dtype)
        model.to(device).eval().requires_grad_(False)
        torch.set_num_threads(threads_for(None, device, model.num_parameters()))
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            opened.assets, local_files_only=True, trust_remote_code=False
        )
        return model, tokenizer

    def _merger(self, checkpoints: Mapping[str, Checkpoint], folder: Path) -> ResidentEngine:
        from automerge.merging import ResidentEngine

        evidence = EvidenceFolders([folder, folder / EVIDENCE, cache_folder()])
        return ResidentEngine(checkpoints, self._plan.budget, self._plan.device_budget, evidence)

    def refine(self, paths: Mapping[str | None, Path], watch: Watch) -> Refined:
        """Refine the recipe on texts, files or folders.

        Raises:
            ConfigError: names of texts are not those of sources.
            PreflightError: a text is too short or cannot be read, a sequence does not fit into
                memory, or the recipe's model is broken.
        """
        try:
            return self._refine(paths, watch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise PreflightError(
                "out of memory: choose a smaller --length, or a larger device"
            ) from error

    def _refine(self, paths: Mapping[str | None, Path], watch: Watch) -> Refined:
        from automerge.refinement import Steps, TextObjective, refine

        settings = self._settings
        texts = self._texts(paths)
        objective = TextObjective(
            self._model,
            self._engine,
            settings.loss,
            texts,
            settings.tokens,
            settings.seed,
            self._room(),
        )
        self._refuse_predictions(objective.prediction_bytes)
        objective.predict(watch.predicting)
        before = objective.measure(self.recipe, "held")
        best = refine(
            self.recipe,
            self._numbers,
            objective,
            Steps(settings.steps, settings.rate),
            watch.step,
            watch.keep,
            watch.stopped,
        )
        if best.diverged and not best.steps:
            raise PreflightError("the recipe's model has no finite loss on this text")
        after = before if best.step == 0 else objective.measure(best.recipe, "held")
        labels = {aim: aim.source or texts[aim.text].name for aim in objective.aims}
        return Refined(best, before, after, labels, len(self._numbers))

    @property
    def _length(self) -> int:
        """Tokens of a sequence: as asked, or as many as the model takes."""
        from automerge.evaluation.loglikelihood.forward import longest_input, max_position

        asked = self._settings.length
        return min(asked, max_position(self._model), longest_input(self._model) or asked)

    def _texts(self, paths: Mapping[str | None, Path]) -> list[Text]:
        """Read, tokenize and divide the texts."""
        from automerge.evidence.gather import Text as Documents
        from automerge.evidence.gather import read_text, sequences
        from automerge.refinement import LEAST, Text, divided

        settings = self._settings
        readers = texts_for(self.recipe, paths, settings.loss)
        length = self._length
        # Two tenths are held back; what is left lasts for all steps where there is enough.
        wanted = max(settings.steps * settings.tokens // len(readers), LEAST * length)
        found = []
        for name, sources in readers.items():
            path = paths[name] if name in paths else paths[None]
            read = read_text(path)
            order = np.random.default_rng([settings.seed, 0]).permutation(len(read.documents))
            mixed = Documents(tuple(read.documents[i] for i in order))
            tokens = wanted * 5 // 4
            pieces = list(sequences(mixed, self._tokenizer, length, tokens))
            parts = divided(pieces, settings.seed)
            if parts is None:
                raise PreflightError(
                    f"{path} has {sum(map(len, pieces))} tokens, too few for {LEAST} different "
                    f"sequences of {length}: give more text, or a smaller --length"
                )
            found.append(Text(name, parts, tuple(sources)))
        return found

    def _refuse_predictions(self, size: int) -> None:
        """Raise PreflightError where the sources' predictions do not fit into memory."""
        from automerge.merging import free_host_bytes
        from automerge.merging.memory import gb

        free = free_host_bytes()
        left = None if free is None else max(0, free - self._plan.budget)
        if left is not None and size > left:
            raise PreflightError(
                f"the sources' predictions need {gb(size)}, but {gb(left, math.floor)} of memory "
                "is left: choose fewer --steps or --tokens"
            )

    def _room(self) -> Room:
        """Return what fits into memory at once; raises PreflightError if no sequence does."""
        from automerge.merging.memory import gb
        from automerge.refinement import find_room

        self._engine.merge_into(self._model, self.recipe)
        with self._engine.contraction(self._model, self.recipe) as contraction:
            if not contraction.coordinates:
                raise ConfigError("none of the recipe's numbers has a slope for this model")
            room = find_room(self._model, self._length, self._settings.tokens, self._plan.graph)
        if room is None:
            left = gb(self._plan.graph, math.floor)
            raise PreflightError(
                f"the slopes of a sequence of {self._length} tokens do not fit into the {left} of "
                "memory that is left: choose a smaller --length, or a larger device"
            )
        return room
