"""How much memory merging needs, computed from headers before any weight is read.

Sources are mapped files, which need not fit: the system drops and rereads their pages. The live
model and one tensor's merge must fit; what is computed once is kept as far as there is room. Slopes
are done without where two gradients and some activations do not fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from automerge.checkpoints import Checkpoint, TensorInfo, rearranged
from automerge.checkpoints.architecture import architecture, native
from automerge.checkpoints.grouped import LAYOUTS
from automerge.checkpoints.layout import stacks
from automerge.checkpoints.mixed import form_of
from automerge.checkpoints.places import LAYER, inner_component, outer_component
from automerge.checkpoints.safetensors_file import ITEM_BYTES
from automerge.errors import Fault, PreflightError
from automerge.evidence import INPUT_GRAM, KINDS
from automerge.merging.order import EXACT, N_BINS
from automerge.merging.ranks import NARROW
from automerge.merging.spread import divided
from automerge.methods import METHODS, Method, Operands

SHARE = 0.5
"""The share of what the live model leaves free that may be filled with what is computed once; the
rest is for activations, tasks and the pages of the models' files."""
DEVICE_SHARE = 0.7
"""The share of what the live model leaves free on a GPU that may be filled with copies of the
models it is merged from; the rest is for activations."""
GRAPH_SHARE = 0.5
"""The share of what all that leaves which a pass forwards may keep for one backwards, or answers
under way as keys and values; the rest is for what a pass makes and drops."""
GB = 10**9


@dataclass(frozen=True)
class Need:
    """Bytes of the live model; of the largest tensor's merge, at least; of everything that would be
    computed once and kept; of the largest tensor, two of which wait to be copied to a GPU; where
    slopes are wanted, of the gradients of the two largest tensors, in the live model's dtype. Of
    the live model, `layers` are the base's, each by itself, and `more` is for additional ones and
    for experts. An engine that generates has its own copy of the live model, `engine` bytes on the
    same devices, which is handed over in `handed` bytes of the host's memory. `calibration` is for
    the pass forwards that calibrates a merge, on each of the live model's devices."""

    live: int
    step: int
    computed: int
    largest: int = 0
    gradients: int = 0
    layers: tuple[int, ...] = ()
    more: int = 0
    engine: int = 0
    handed: int = 0
    calibration: int = 0


@dataclass(frozen=True)
class MemoryPlan:
    """What is needed, the bytes free for it, and how many of them may be filled with computed
    values, on each GPU with copies of the models, with what a pass forwards keeps for one backwards
    (0 where slopes do not fit, or were not asked for), and at other times with the keys and values
    of answers under way. `placement` has the number of each layer's device where there are
    several."""

    need: Need
    host_free: int | None
    budget: int
    device_budget: int = 0
    graph: int = 0
    cache: int = 0
    placement: tuple[int, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will be slow, with the numbers."""
        if self.need.computed <= self.budget:
            return ()
        return (
            f"cached statistics need {gb(self.need.computed)} but "
            f"{gb(self.budget, math.floor)} are available: the rest is recomputed for every "
            "candidate, which is slow; use fewer workers or fewer methods",
        )


def plan_memory(
    need: Need, host_free: int | None, device_free: int | None = None, workers: int = 1
) -> MemoryPlan:
    """Share out the memory of a machine among its workers.

    `device_free` is None if the live model is in the host's memory; `host_free` is None if unknown.

    Raises:
        PreflightError: With the numbers, if what must be in memory does not fit.
    """
    merging = need.step if device_free is None else need.step + 2 * need.largest
    held = need.live + need.engine + need.calibration
    on_host = merging + need.handed + (held if device_free is None else 0)
    faults = []
    if device_free is not None and held > device_free:
        needs = f"{_all_of(_held(need))} of device memory"
        faults.append(
            f"{needs}, but only {gb(device_free, math.floor)} is free: choose a smaller "
            "evaluation.dtype, a larger device, or device: cpu"
        )
    if host_free is not None and on_host > host_free:
        parts = {} if device_free is not None else _held(need)
        parts |= {"handing it over": need.handed} if need.handed else {}
        needs = f"{_all_of({**parts, 'merging a tensor': merging})} of memory"
        faults.append(
            f"{needs}, but only {gb(host_free, math.floor)} is free: stop other programs, use a "
            "larger machine or fewer workers, or a smaller evaluation.dtype"
        )
    if faults:
        raise PreflightError(map(Fault, faults))
    left = 2 * GB if host_free is None else host_free - on_host
    budget = int(left * SHARE / workers)
    if device_free is None:
        device_budget, spare = 0, left / workers - budget
    else:
        device_left = device_free - held
        device_left -= need.gradients if need.gradients < device_left else 0
        device_budget = int(device_left * DEVICE_SHARE)
        spare = device_free - held - device_budget
    graph = int(max(spare - need.gradients, 0) * GRAPH_SHARE) if need.gradients else 0
    cache = int(max(spare, 0) * GRAPH_SHARE)
    return MemoryPlan(need, host_free, budget, device_budget, graph, cache)


def _held(need: Need) -> dict[str, int]:
    """Return what the device of a live model holds, in bytes."""
    engine = {"the copy of the engine that generates": need.engine} if need.engine else {}
    calibration = {"calibrating a merge": need.calibration} if need.calibration else {}
    return {"the live model": need.live, **engine, **calibration}


def _all_of(parts: Mapping[str, int]) -> str:
    """Say what several things need together."""
    total = gb(sum(parts.values()))
    *first, last = (f"{what} ({gb(size)})" for what, size in parts.items())
    return f"{', '.join(first)} and {last} need {total}" if first else f"{last} needs {total}"


def plan_spread(
    need: Need, host_free: int | None, device_free: Sequence[int], workers: int = 1
) -> MemoryPlan:
    """Share out memory where a live model's layers are spread over several devices.

    Each device must have room for what lies on it, and for additional layers, which lie beside
    those that they repeat. What a pass forwards keeps must fit into every device, though each keeps
    a part of it only.

    Args:
        need: of the whole model.
        host_free: bytes of the host, None if unknown.
        device_free: bytes of each device.
        workers: of the machine.

    Raises:
        PreflightError: with the numbers, if what must be in memory does not fit.
    """
    outer = need.live - sum(need.layers) - need.more
    engine = math.ceil(need.engine / len(device_free))
    beside = need.more + engine + need.calibration
    rooms = [max(free - beside, 0) for free in device_free]
    placement = divided(need.layers, outer, rooms)
    if placement is None:
        free = ", ".join(gb(size, math.floor) for size in device_free)
        more = f", and {gb(need.engine)} for the engine that generates" if need.engine else ""
        more += f", and {gb(need.calibration)} to calibrate" if need.calibration else ""
        raise PreflightError(
            f"the live model needs {gb(need.live)} of device memory ({gb(outer)} outside its "
            f"{len(need.layers)} layers{more}), which cannot be divided among the {free} that "
            "are free: choose a smaller evaluation.dtype, larger devices, or more gpus_per_worker"
        )
    waiting = 2 * need.largest * (len(device_free) - 1)
    plans = []
    for number, room in enumerate(device_free):
        own = [size for size, at in zip(need.layers, placement, strict=True) if at == number]
        held = sum(own) + need.more + (0 if number else outer)
        there = replace(need, live=held, step=need.step + waiting, engine=engine)
        plans.append(plan_memory(there, host_free, room, workers))
    return replace(
        plans[0],
        need=need,
        device_budget=min(plan.device_budget for plan in plans),
        graph=min(plan.graph for plan in plans),
        cache=min(plan.cache for plan in plans),
        placement=placement,
    )


def plan_free_memory(device: str = "cpu") -> MemoryPlan:
    """Share out what is free now, next to a live model that is already in memory."""
    return plan_memory(Need(0, 0, 0), free_host_bytes(), free_device_bytes(device))


def estimate(
    checkpoints: Mapping[str, Checkpoint],
    base: str,
    dtype: str,
    methods: Sequence[str],
    more_layers: int = 0,
    slopes: bool = False,
    heads: int = 1,
    engine: bool = False,
    n_experts: int = 0,
    calibrated: int = 0,
) -> Need:
    """Compute what merging all sources into a live model of a dtype ("auto": as stored) may need.

    The live model may get `more_layers` layers in addition to the base's, and `n_experts` experts
    beside each feed-forward part, dense or not. `slopes` says whether gradients are wanted of what
    it holds. `heads` is its number of output heads: 2 where the base's is kept beside its own.
    `engine` says whether an engine that generates has its own copy, and `calibrated` on how many
    tokens merges are calibrated, those of padding included.
    """
    sources = [name for name in checkpoints if name != base]
    declared = [METHODS[name] for name in methods]
    seen: dict[tuple[Method, TensorInfo], int] = {}
    live = step = computed = head = 0
    each: dict[int, int] = {}
    feed_forward = 0
    sizes = []
    for name, info in checkpoints[base].tensors.items():
        stored = dtype == "auto" or not info.mergeable
        size = info.n_elements * ITEM_BYTES[info.dtype if stored else dtype]
        live += size
        if match := LAYER.match(name):
            each[int(match[2])] = each.get(int(match[2]), 0) + size
            feed_forward += size if inner_component(match[3]) == "mlp" else 0
        elif outer_component(name) == "embedding":
            head = max(head, size)
        computed += sum(info.n_bytes for model in checkpoints.values() if rearranged(model, name))
        if not info.mergeable:
            continue
        sizes.append(size)
        for method in declared:
            count = min(len(sources), method.max_sources or len(sources))
            step = max(step, step_bytes(method, info, count))
            if (method, info) not in seen:
                seen[method, info] = kept_bytes(method, info, count)
            computed += seen[method, info]
    n_layers = sum(stacks(checkpoints[base].tensors).values())
    more = more_layers * sum(each.values()) // max(n_layers, 1)
    if n_experts:
        more += _feed_forward_parts(checkpoints[base], n_experts) * feed_forward
    largest = max((i.n_bytes for i in checkpoints[base].tensors.values() if i.mergeable), default=0)
    gradients = _gradient_bytes(checkpoints[base], sizes, dtype, n_experts) if slopes else 0
    copy = live + more if engine else 0
    live += (heads - 1) * head + more
    layers = tuple(each[number] for number in sorted(each))
    each_token = token_bytes(checkpoints[base], dtype, n_experts) if calibrated else 0
    return Need(
        live,
        step,
        computed,
        largest,
        gradients,
        layers,
        more,
        engine=copy,
        handed=copy,
        calibration=calibrated * each_token,
    )


def token_bytes(base: Checkpoint, dtype: str, n_experts: int = 0) -> int:
    """Return the bytes per token, at most, of a pass forwards that shows what layers put out.

    In the largest layer, what each matrix reads or puts out may be there at once; what the widest
    puts out is there once more, twice while it is shown, and twice in float32 while its deviations
    are taken. Attention is taken to keep no scores.

    Args:
        base: the model; of its own experts, a token passes as many as its configuration says.
        dtype: that of the live model ("auto": as stored).
        n_experts: experts beside each feed-forward part, all of which a token may pass.
    """
    own = int(base.config.get("num_experts_per_tok") or 1)
    widths: dict[str, dict[str, int]] = {}
    item = 0
    for name, info in base.tensors.items():
        if (match := LAYER.match(name)) and len(info.shape) == 2:
            item = max(item, ITEM_BYTES[info.dtype if dtype == "auto" else dtype])
            kind, stored = re.subn(r"\bexperts\.\d+\.", "experts.", match[3])
            passed = own if stored else 1
            if inner_component(match[3]) == "mlp":
                passed += n_experts
            widths.setdefault(match[2], {})[kind] = max(info.shape) * passed
    if not widths:
        return 0
    widest = max(max(each.values()) for each in widths.values())
    together = max(sum(each.values()) for each in widths.values()) + widest
    return together * item + widest * (2 * item + 8)


def _feed_forward_parts(base: Checkpoint, n_experts: int) -> int:
    """Return how many parts as large as the base's own are in memory beside it.

    Those of a mixture whose experts are fewer are at most as large as all of them.
    """
    if base.config.get("model_type") in LAYOUTS:
        return 1
    return n_experts + form_of(base).shared


def _gradient_bytes(base: Checkpoint, sizes: Sequence[int], dtype: str, n_experts: int) -> int:
    """Return the bytes of the gradients of the two largest parameters of a live model.

    transformers may hold several tensors of a checkpoint in one parameter: all experts of a layer,
    with both matrices that read a token. One that is both embedding and head has two gradients
    until they are added.

    Args:
        base: the model.
        sizes: the bytes of its tensors, for a model that is none of transformers'.
        dtype: that of the live model ("auto": as stored).
        n_experts: experts in the place of each dense feed-forward part.
    """
    stored = [info.dtype for info in base.tensors.values() if info.mergeable]
    item = max((ITEM_BYTES[d] for d in ([dtype] if dtype != "auto" else stored)), default=0)
    if base.config and native(base.config):
        known = architecture(base.config)
        sizes = [p.numel() * item for p in known.model.parameters() if p.is_floating_point()]
        sizes += [known.state[name].numel() * item for name in {*known.ties.values()}]
    if n_experts and base.config.get("model_type") not in LAYOUTS:
        placed = ((LAYER.match(name), info) for name, info in base.tensors.items())
        parts = [i.n_elements for m, i in placed if m and inner_component(m[3]) == "mlp"]
        largest = max(parts, default=0)
        sizes = [*sizes, *2 * [2 * n_experts * largest * item]]
    return sum(sorted(sizes)[-2:])


def kept_bytes(method: Method, info: TensorInfo, count: int) -> int:
    """Count the bytes that a method keeps for one tensor of `count` sources.

    It is an upper bound for order statistics, which not every setting of the knobs asks for, and
    for coordinates of task vectors of low rank, which others do not have.
    """
    n, item = info.n_elements, working_bytes(info)
    exact = n <= EXACT
    kept = 0
    if "magnitude" in method.statistics:
        kept += count * (item * n if exact else 8 * N_BINS)
    if "competition" in method.statistics:
        kept += 2 * count * (item * n if exact else 8 * N_BINS)
    if "spread" in method.statistics:
        kept += (item + 8 * count) * n if exact else 8 * N_BINS * (1 + count)
    if "ranks" in method.statistics:
        columns = info.shape[-1] if info.shape else 1
        kept += (2 if columns <= NARROW else 4) * n * count
    if method.seeded:
        kept += 4 * n * count
    if method.prepare is not None:
        # Tensors of shapes alone: what is computed has the bytes of the real thing.
        precision = torch.float64 if item == 8 else torch.float32
        parts = [torch.empty(info.shape, dtype=precision, device="meta") for _ in range(count + 1)]
        operands = Operands(parts[0] if method.anchored else None, parts[1:])
        kept += sum(t.numel() * t.element_size() for t in method.prepare(operands))
    return kept


def step_bytes(method: Method, info: TensorInfo, count: int) -> int:
    """Count the bytes that one tensor's merge is sure to take while it lasts.

    For whole-tensor methods these are every operand and the result in working precision, for ranks
    what they are sorted with; other methods work in blocks.
    """
    if method.extent == "tensor":
        whole = (count + method.anchored + 1) * info.n_elements * working_bytes(info)
        # Evidence of every source, and for Gram matrices what is solved with them in float64.
        for kind in method.needs:
            solved = 32 if kind == INPUT_GRAM.name else 0
            whole += KINDS[kind].elements(info.shape) * (4 * count + solved)
        return whole
    return 16 * info.n_elements if "ranks" in method.statistics else 0


def working_bytes(info: TensorInfo) -> int:
    """Return the bytes per element while it is merged."""
    return 8 if info.dtype == "float64" else 4


def free_host_bytes(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the memory that programs may still take, within a container's limit, or None."""
    known = [
        free
        for free in (
            available(proc / "meminfo"),
            within_limit(cgroup, "memory.max", "memory.current", "inactive_file"),
            within_limit(
                cgroup / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
        )
        if free is not None
    ]
    return min(known, default=None)


def free_device_bytes(device: str) -> int | None:
    """Return the memory that is free on a GPU; None for the CPU."""
    return None if device == "cpu" else int(torch.cuda.mem_get_info(device)[0])


def available(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text("ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def within_limit(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Return what a control group's limit leaves; file pages that it would drop count as free."""
    try:
        most = int((folder / limit).read_text("ascii"))
        used = int((folder / usage).read_text("ascii"))
        lines = (folder / "memory.stat").read_text("ascii").splitlines()
        stat = dict(line.split() for line in lines)
        return max(0, most - used + int(stat.get(reclaimable, 0)))
    except (OSError, ValueError):
        return None


def gb(size: float, rounding: Callable[[float], int] = math.ceil) -> str:
    """Format bytes for people; round what is needed up and what is there down."""
    digits = 1 if size < 10 * GB else 0
    scale = GB / 10**digits
    return f"{rounding(size / scale) / 10**digits:.{digits}f} GB"
