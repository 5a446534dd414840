"""`automerge doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from automerge.machine.processors import THREADS, affine_cpus, usable_cpus
from automerge.session.extras import DISTRIBUTION, install
from automerge.text.say import say
from automerge.text.wrapped import hanging

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "without", "fault"]
"""`ok`: present and working; `without`: a search runs without it; `fault`: no search can run."""
SCARCE = 2 * 10**9
"""Free bytes of memory or disk below which that is said."""
PACKAGES = ("transformers", "lm_eval", "datasets")
REINSTALL = "install automerge's dependencies again"
EXTRAS = (
    ("optuna", "optuna", "optuna", "the samplers tpe, nsga2 and nsga3"),
    ("optuna-dashboard", "optuna_dashboard", "dashboard", "automerge dashboard"),
    ("pandas", "pandas", "notebook", "study.trials_frame()"),
    ("mlflow", "mlflow", "mlflow", "--track mlflow"),
    ("tensorboard", "tensorboard", "tensorboard", "--track tensorboard"),
    ("trackio", "trackio", "trackio", "--track trackio"),
    ("wandb", "wandb", "wandb", "--track wandb"),
)
"""Distribution, module, extra, and what it is for."""
NAME_WIDTH, WIDTH = 17, 79


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what to do if something is missing."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(folder: Path) -> tuple[Check, ...]:
    """Look at everything a search in a folder needs or uses; nothing is downloaded or kept."""
    checks = [*_safely("automerge", _installation), *_safely("torch", _torch)]
    looks: dict[str, Callable[[], Iterator[Check]]] = {
        "packages": _packages,
        "processors": _processors,
        "disk": lambda: _disk(folder),
        "ray": _ray,
        "hub": _hub,
        "extras": _extras,
        "vllm": _vllm,
    }
    if can_search(checks):  # these import torch
        looks |= {"memory": _memory, "compiler": _compiler, "code tasks": _cage}
    for name, look in looks.items():
        checks += _safely(name, look)
    return tuple(checks)


def can_search(checks: Sequence[Check]) -> bool:
    """Return whether nothing that a search needs is missing."""
    return all(check.state != "fault" for check in checks)


def plain(checks: Sequence[Check]) -> dict[str, Any]:
    """Return what was found as JSON values."""
    return {"can_search": can_search(checks), "checks": [asdict(check) for check in checks]}


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """Print what was found, one thing per line, and a last line that says whether it suffices."""
    for check in checks:
        mark = {"ok": " ", "without": "-", "fault": "!"}[check.state]
        text = f"{check.found}; {check.advice}" if check.advice else check.found
        for line in hanging(f"{mark} {check.name:{NAME_WIDTH}}", text, WIDTH):
            say(console, line)
    faults = [check.name for check in checks if check.state == "fault"]
    if faults:
        say(console, f"a search cannot run here: see {', '.join(faults)}")
    else:
        say(console, "a search can run here; automerge selftest tries one")


def _safely(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield what a look finds; a library that cannot be imported is what it found."""
    try:
        yield from look()
    except (ImportError, OSError) as error:
        said = " ".join(str(error).split())
        yield Check(name, "fault", said, REINSTALL)


def _installation() -> Iterator[Check]:
    yield Check("automerge", "ok", _version(DISTRIBUTION) or "not installed: run from sources")
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if find_spec("fcntl") is None:
        yield Check("python", "fault", found, "automerge needs Linux or macOS (on Windows, WSL)")
    else:
        yield Check("python", "ok", found)


def _torch() -> Iterator[Check]:
    import torch

    yield Check("torch", "ok", str(torch.__version__))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Check("device", "ok", f"{name}, {_gb(free)} of {_gb(total)} free")
    if count:
        return
    if shutil.which("nvidia-smi") is not None:
        advice = "install PyTorch for CUDA (pytorch.org), or check the driver with nvidia-smi"
        yield Check(
            "device", "without", "CPU: nvidia-smi is installed, but torch finds no GPU", advice
        )
    elif torch.backends.mps.is_available():
        yield Check("device", "ok", "CPU (Apple's GPUs are not supported)")
    else:
        yield Check("device", "ok", "CPU (no GPU was found)")


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        yield _package(name, name, "fault", REINSTALL)


def _processors() -> Iterator[Check]:
    usable, there = usable_cpus(), affine_cpus()
    found = f"{usable} usable"
    if usable < (os.cpu_count() or 1):
        found += f" of {os.cpu_count()}: affinity allows {there}, quotas {usable}"
    chosen = os.environ.get(THREADS)
    yield Check("processors", "ok", found + (f"; {THREADS}={chosen}" if chosen else ""))


def _memory() -> Iterator[Check]:
    from automerge.merging.memory import free_host_bytes

    free = free_host_bytes()
    if free is None:
        yield Check("memory", "ok", "free memory is not known on this system")
    elif free < SCARCE:
        advice = "that is enough for small models only; stop other programs"
        yield Check("memory", "without", f"{_gb(free)} free", advice)
    else:
        yield Check("memory", "ok", f"{_gb(free)} free")


def _disk(folder: Path) -> Iterator[Check]:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Check(
            "disk", "fault", "cannot write in this folder", "change to one you may write to"
        )
    elif free < SCARCE:
        advice = "that is enough for small models only; free some space"
        yield Check("disk", "without", f"{_gb(free)} free in this folder", advice)
    else:
        yield Check("disk", "ok", f"{_gb(free)} free in this folder")


def _compiler() -> Iterator[Check]:
    from automerge.merging.backends.build import CannotCompile, compiler, library

    advice = "merges of large models are several times faster with g++ or clang++"
    found = compiler()
    if found is None:
        yield Check("compiler", "without", "no C++ compiler", advice)
        return
    try:
        library('extern "C" int automerge_doctor() { return 0; }\n', found)
    except CannotCompile as error:
        said = str(error).splitlines()[-1] if str(error) else "it fails"
        yield Check("compiler", "without", f"{found} cannot compile: {said}", advice)
    else:
        yield Check("compiler", "ok", found)


def _ray() -> Iterator[Check]:
    advice = f"for several GPUs or machines (executor: ray): {install('ray')}"
    yield _package("ray", "ray", "without", advice)


def _hub() -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token"
    if constants.HF_HUB_OFFLINE:
        advice = "models and tasks must be on this machine, or unset HF_HUB_OFFLINE"
        yield Check("hub", "without", f"offline, {token}", advice)
    elif get_token():
        yield Check("hub", "ok", token)
    else:
        advice = "gated models and automerge push need one: hf auth login"
        yield Check("hub", "without", token, advice)


def _cage() -> Iterator[Check]:
    from automerge.evaluation.lm_eval.cage.launch import caging_fault

    fault = caging_fault()
    if fault is None:
        yield Check("code tasks", "ok", "model-written programs can be sandboxed")
    else:
        yield Check("code tasks", "without", fault)


def _extras() -> Iterator[Check]:
    for package, module, extra, use in EXTRAS:
        advice = f"for {use}: {install(extra)}"
        yield _package(package, module, "without", advice)


def _vllm() -> Iterator[Check]:
    from automerge.evaluation.generation.vllm.environment import NoVllm, find_vllm

    try:
        found = find_vllm()
    except NoVllm as error:
        advice = f"for evaluation.generator: vllm: {error.advice}"
        yield Check("vllm", "without", str(error), advice)
    else:
        yield Check("vllm", "ok", f"{found.version} of {found.interpreter}")


def _package(package: str, module: str, missing: State, advice: str) -> Check:
    """Look for a package by the distribution and its module."""
    found = _version(package)
    if found is None or find_spec(module) is None:
        return Check(package, missing, "not installed", advice)
    return Check(package, "ok", found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gb(size: float) -> str:
    return f"{math.floor(size / 10**8) / 10:.1f} GB"
