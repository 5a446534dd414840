"""One worker: a live model that recipes are merged into, and the tasks it is scored on.

Built once in the process that measures, from values that travel anywhere. Its border is where
failure becomes a value.
"""

from __future__ import annotations

import logging
import math
import platform
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.checkpoints import ModelWatch, open_checkpoint, open_together, sampled_digest
from automerge.checkpoints.architecture import read_config
from automerge.checkpoints.kinds import live_class
from automerge.checkpoints.reader import read_json
from automerge.errors import DeviceLost, PreflightError
from automerge.evaluation.base import Live, NoRoom, OpenTasks, Scored, SlopeScorer
from automerge.evaluation.generation.vllm.environment import find_vllm
from automerge.evaluation.guards import InvalidOutput
from automerge.evaluation.panel import Panel
from automerge.evidence import EvidenceFolders, cache_folder
from automerge.extensions import Extension, install
from automerge.machine.allocation import is_out_of_memory
from automerge.machine.arithmetic import arithmetic
from automerge.machine.bus_error import explain_bus_errors
from automerge.machine.devices import device_fault
from automerge.machine.processors import fit_threads, usable_cpus
from automerge.merging import (
    InvalidMerge,
    ResidentEngine,
    estimate,
    free_device_bytes,
    free_host_bytes,
    plan_memory,
    plan_spread,
    spread,
)
from automerge.methods import METHODS
from automerge.recipe import Coordinate, Recipe, single
from automerge.text.error import cause
from automerge.trial import (
    NO_ROOM,
    Failed,
    Job,
    Measured,
    Outcome,
    Part,
    Slope,
    Steering,
    Timings,
)
from automerge.worker.gate import score_in_order
from automerge.worker.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

MAX_TRACEBACK = 64_000
DECISIVE = ("automerge-llm", "torch", "transformers", "lm_eval")
"""Packages whose versions decide a score."""
SMALL_MODEL = 20_000_000
"""Below this many parameters a second CPU thread costs more than it saves."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is built from; picklable.

    `models` maps names to folders, the base first, `digests` to what they held, whole, and `align`
    to how they are aligned with the base. `panel` is
    what is measured, `run` the run folder that holds copies of what its tasks read.
    `dtype` "auto" is float32 on a CPU and the base's own on a GPU. `threads` None is one for a
    small model, else torch's choice; a worker given some of a machine's cores takes as much of its
    memory. `methods` are what recipes may use, `more_layers` and `n_experts` what
    they may add to the base's layers, as far as known, and `calibrated` the tokens, with those of
    padding, that merges may be calibrated on. `slopes` says whether jobs may want
    them. The model's layers are spread over `gpus` GPUs. `extensions` are imported before anything
    else. Evidence is looked up in the folders of `evidence`, then in the cache, and alignments in
    those of `alignments`.
    """

    models: Mapping[str, Path]
    digests: Mapping[str, str]
    base: str
    panel: Panel
    run: Path
    dtype: str
    device: str
    threads: int | None = None
    methods: tuple[str, ...] = ()
    more_layers: int = 0
    n_experts: int = 0
    calibrated: int = 0
    slopes: bool = False
    gpus: int = 1
    extensions: tuple[Extension, ...] = ()
    align: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[Path, ...] = ()
    alignments: tuple[Path, ...] = ()

    def relocated(self, moved: Mapping[Path, Path]) -> WorkerSpec:
        """Return the same with copies in place of some folders."""
        return replace(
            self,
            models={name: moved.get(path, path) for name, path in self.models.items()},
            run=moved.get(self.run, self.run),
            evidence=tuple(moved.get(path, path) for path in self.evidence),
            alignments=tuple(moved.get(path, path) for path in self.alignments),
        )


class MergeWorker:
    """Merges in place, then scores. Raises PreflightError where the model does not fit."""

    def __init__(
        self, spec: WorkerSpec, tasks: OpenTasks | None = None, watch: ModelWatch | None = None
    ) -> None:
        self._watch = watch or ModelWatch(spec.models, spec.digests)
        self._verified: Part = "search"
        fit_threads()
        explain_bus_errors()
        try:
            self._build(spec, tasks)
        except Exception:
            self._watch.verify()
            raise

    def _build(self, spec: WorkerSpec, tasks: OpenTasks | None) -> None:
        import torch

        install(spec.extensions)
        device = choose_device(spec.device)
        path = spec.models[spec.base]
        checkpoints = open_together(spec.models, spec.base, spec.align, spec.alignments)
        dtype = compute_dtype(spec.dtype, device)
        stored = str(dtype).removeprefix("torch.")
        need = estimate(
            checkpoints,
            spec.base,
            stored,
            spec.methods,
            spec.more_layers,
            spec.slopes,
            spec.panel.heads,
            spec.panel.engine,
            spec.n_experts,
            spec.calibrated,
        )
        devices = worker_devices(device, spec.gpus)
        workers = max(1, workers_here(spec.threads, device) // len(devices))
        if len(devices) > 1:
            there = [free_device_bytes(one) or 0 for one in devices]
            plan = plan_spread(need, free_host_bytes(), there, workers)
        else:
            plan = plan_memory(need, free_host_bytes(), free_device_bytes(device), workers)
        for warning in plan.warnings:
            logger.warning(warning)
        self._engine = ResidentEngine(
            checkpoints,
            plan.budget,
            plan.device_budget,
            EvidenceFolders([*spec.evidence, cache_folder()]),
        )
        self._paths, self._methods = spec.models, spec.methods
        self._generates_with_vllm = spec.panel.engine
        assets = checkpoints[spec.base].assets
        self._model = load_model(path, assets, dtype)
        self._model.eval().requires_grad_(False)
        if plan.placement:
            spread(self._model, [torch.device(devices[number]) for number in plan.placement])
        else:
            self._model.to(device)
        size = self._model.num_parameters()
        torch.set_num_threads(threads_for(spec.threads, device, size, len(devices)))
        tokenizer = load_tokenizer(assets)
        self._room_for_slopes = plan.graph > 0
        self._base_name = spec.base
        self._held: Recipe | None = None
        live = Live(
            self._model,
            tokenizer,
            lambda: self._engine.distance(self._model, spec.base),
            self._base,
            plan.graph,
            plan.cache,
        )
        opened = tasks or spec.panel.open(spec.run)
        self._objectives = {objective.name: objective for objective in opened.objectives}
        self._scorer = opened.attach(live)

    @contextmanager
    def _base(self) -> Iterator[None]:
        """Let the model hold the base for a while."""
        held = self._held
        self._engine.merge_into(self._model, single(self._base_name))
        try:
            yield
        finally:
            if held is not None:
                self._engine.merge_into(self._model, held)

    def prepare(self, part: Part) -> None:
        """Check whether the models' files were touched; before select and test, read them whole."""
        if part in (self._verified, "explain"):
            self._watch.check()
        else:
            self._watch.verify()
            self._verified = part

    def measure(self, job: Job) -> Outcome:
        """Merge and score; every failure of a recipe comes back as a value.

        What was measured while files were touched is measured again, or ends the study.

        Raises:
            ModelsChanged: the models' files changed.
            DeviceLost: the GPU no longer responds, and would not for the next recipe either.
        """
        outcome = self._measure_with_room(job)
        while not self._watch.untouched:
            self._watch.check()
            outcome = self._measure_with_room(job)
        return outcome

    def _measure_with_room(self, job: Job) -> Outcome:
        """Measure; where a device's memory runs out, copies of models on it make room, once, and
        then slopes do, for good."""
        import torch

        outcome = self._measure(job)
        if _out_of_memory(outcome):
            left = self._engine.leave_devices()
            torch.cuda.empty_cache()
            outcome = self._measure(job) if left else outcome
        if _out_of_memory(outcome) and job.steering is not None and self._room_for_slopes:
            self._room_for_slopes = False
            torch.cuda.empty_cache()
            outcome = self._measure(job)
        return outcome

    def _measure(self, job: Job) -> Outcome:
        start = time.perf_counter()
        try:
            self._engine.merge_into(self._model, job.recipe)
            self._held = job.recipe
            merged = time.perf_counter()
            scored, slopes = self._score(job)
        except (InvalidMerge, InvalidOutput, PreflightError) as error:
            return Failed("invalid", str(error))
        except Exception as error:
            if is_out_of_memory(error):
                where = "memory" if self._model.device.type == "cpu" else "device memory"
                advice = "lower evaluation.batch_size or max_length, or use a larger device"
                return Failed("oom", f"out of {where}; {advice}", _trace(error))
            reason = cause(error)[:500]
            if not all(map(answers, {p.device for p in self._model.parameters()})):
                raise DeviceLost(f"{reason}; run the same command to resume") from error
            return Failed("error", reason, _trace(error))
        timings = Timings(
            merge=merged - start,
            forward=scored.forward_s,
            score=scored.score_s,
            total=time.perf_counter() - start,
        )
        return Measured(
            scored.scores,
            timings,
            scored.tokens,
            scored.notes,
            arithmetic(),
            self._engine.weights(self._model, job.recipe) if job.part == "test" else None,
            scored.margins,
            slopes,
            scored.answers if job.keep_answers else {},
        )

    def _score(self, job: Job) -> tuple[Scored, dict[str, Slope]]:
        """Score the model, with slopes where the job wants them and the tasks have them."""
        scorer = self._scorer
        if job.steering is None or not isinstance(scorer, SlopeScorer):
            if job.gate is not None:
                return score_in_order(scorer.score, job.items, job.gate, self._objectives), {}
            return scorer.score(job.items), {}
        found = self._score_with_slopes(scorer, job, job.steering)
        if found is not None:
            return found
        scored = scorer.score(job.items)
        return replace(scored, notes={**scored.notes, NO_ROOM: 1.0}), {}

    def _score_with_slopes(
        self, scorer: SlopeScorer, job: Job, steering: Steering
    ) -> tuple[Scored, dict[str, Slope]] | None:
        """Score the model with slopes; None where they do not fit into memory."""
        if not self._room_for_slopes:
            return None
        totals: dict[str, dict[Coordinate, float]] = {}
        with self._engine.contraction(self._model, job.recipe) as contraction:

            def backward(objective: str, loss: Tensor, keep: bool) -> None:
                total = totals.setdefault(objective, {})
                for coordinate, slope in contraction.slopes(loss, keep).items():
                    total[coordinate] = total.get(coordinate, 0.0) + slope

            try:
                scored = scorer.score_with_slopes(job.items, steering, backward)
            except NoRoom:
                self._room_for_slopes = False
                return None
        return scored, {
            name: Slope(scored.losses[name], total)
            for name, total in totals.items()
            if all(map(math.isfinite, (scored.losses[name], *total.values())))
        }

    def identity(self) -> dict[str, str]:
        """Return versions (vLLM's too, if it generates), digests of the models on this machine,
        the kind of device, and the kind of arithmetic if the processor's decides scores or
        whole-tensor merges."""
        digests = {name: sampled_digest(path) for name, path in self._paths.items()}
        identity = {**expected_identity(digests), "device": device_name(self._model.device)}
        whole = any(METHODS[name].extent == "tensor" for name in self._methods)
        if whole or self._model.device.type == "cpu":
            identity["arithmetic"] = arithmetic()
        if self._generates_with_vllm:
            identity["vllm"] = find_vllm().version
        return identity


def _out_of_memory(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.kind == "oom"


def expected_identity(digests: Mapping[str, str]) -> dict[str, str]:
    """Return what all workers must have in common with the driver; digests are by model."""
    models = {f"model {name}": digest[:12] for name, digest in digests.items()}
    return {**{package: version(package) for package in DECISIVE}, **models}


def device_name(device: torch.device) -> str:
    """Return the kind of device: kernels, and so rounding, differ between kinds."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def load_model(path: Path, assets: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """Load the base; where merged models have other assets, a model of those without weights.

    Its class is the one its configuration names, or the language model of that. The library's own
    progress is not shown.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = read_config(read_json(assets / "config.json"))
    kind = live_class(config, open_checkpoint(path).tensors)
    if assets == path:
        loaded: PreTrainedModel = kind.from_pretrained(
            path, config=config, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        return loaded
    made: PreTrainedModel = kind._from_config(
        config, dtype=config.dtype if dtype == "auto" else dtype
    )
    return made


def choose_device(device: str) -> str:
    """Resolve "auto" to the first GPU, else the CPU.

    Raises:
        PreflightError: the device has another name, or is not there.
    """
    import torch

    if (problem := device_fault(device)) is not None:
        raise PreflightError(problem)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise PreflightError("device cuda was asked for, but torch sees no GPU; use device: cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device


def worker_devices(device: str, gpus: int) -> tuple[str, ...]:
    """Return the devices of a worker's live model: the one, or its first GPUs.

    Raises:
        PreflightError: there are not as many.
    """
    import torch

    if gpus == 1:
        return (device,)
    there = 0 if device == "cpu" else torch.cuda.device_count()
    if there < gpus:
        raise PreflightError(
            f"gpus_per_worker is {gpus}, but torch sees {there} GPU{'' if there == 1 else 's'}"
        )
    return tuple(f"cuda:{number}" for number in range(gpus))


def compute_dtype(dtype: str, device: str) -> torch.dtype | str:
    """Return the dtype of scoring: as asked, else float32 on a CPU, the stored one on a GPU."""
    import torch

    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    found: torch.dtype = getattr(torch, dtype)
    return found


def workers_here(threads: int | None, device: str) -> int:
    """Return how many workers a machine should have: one per GPU, or as its cores allow."""
    if device != "cpu":
        return gpus_here()
    return max(1, usable_cpus() // threads) if threads else 1


def threads_for(given: int | None, device: str, n_parameters: int, gpus: int = 1) -> int:
    """Return how many threads a worker uses: as many as it was given, else one for a small model
    on a CPU, its GPUs' share of the processors, or as many as torch chooses."""
    import torch

    if given is not None:
        return given
    if device != "cpu":
        return max(1, usable_cpus() * gpus // gpus_here())
    return 1 if n_parameters < SMALL_MODEL else min(torch.get_num_threads(), usable_cpus())


def gpus_here(driver: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """Count this machine's GPUs, including those of other workers; at least one."""
    import torch

    try:
        all_of_them = len(list(driver.iterdir()))
    except OSError:
        all_of_them = 0
    return max(1, torch.cuda.device_count(), all_of_them)


def answers(device: torch.device) -> bool:
    """Return whether a device still computes: after some errors a process loses its GPU."""
    import torch

    try:
        return device.type == "cpu" or torch.ones(1, device=device).tolist() == [1.0]
    except RuntimeError:
        return False


def _trace(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return text.encode("utf-8", "replace").decode()[-MAX_TRACEBACK:]
