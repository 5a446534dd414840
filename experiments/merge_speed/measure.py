"""Merging to a folder: automerge and mergekit on the same files and cores, beside raw reading and
writing.

    python -m experiments.merge_speed.measure --shape 0.5b --sources 3 --folder /tmp/merge_speed

Each tool runs in a process of its own; wall and processor seconds are the whole process's, imports
too. Memory is the most anonymous memory seen, every 20 ms: pages of mapped files do not count. Raw
is reading the inputs and writing as many bytes as the output, in blocks. Prints a table and writes
results.json. mergekit 0.1.5 is measured where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from transformers import PreTrainedModel

from automerge.bench.shapes import SIZES, empty_model, random_models

METHODS = ("linear", "task_arithmetic", "ties", "dare_ties")
BLOCK = 1 << 24


def write_models(folder: Path, model: PreTrainedModel, n_sources: int) -> list[Path]:
    """Random models of a model's shape as transformers folders."""
    model.config.architectures = [type(model).__name__]
    paths = []
    for name, checkpoint in random_models(model, n_sources).items():
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(path)
        content = {k: v.clone() for k, v in checkpoint.content.items()}
        save_file(content, path / "model.safetensors", metadata={"format": "pt"})
        paths.append(path)
    return paths


def recipe(method: str, paths: list[Path]) -> dict[str, object]:
    """A mergekit YAML that both tools read."""
    parameters: dict[str, float] = {"weight": 0.4}
    if method in ("ties", "dare_ties"):
        parameters["density"] = 0.5
    plain: dict[str, object] = {
        "merge_method": method,
        "models": [{"model": str(path), "parameters": parameters} for path in paths[1:]],
        "dtype": "bfloat16",
    }
    if method != "linear":
        plain["base_model"] = str(paths[0])
    return plain


def run(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds and peak memory (GB) of one process and its children."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    most = 0
    while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        most = max(most, anonymous_bytes(process.pid))
        time.sleep(0.02)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed:\n{errors.decode()[-2000:]}")
    return {
        "wall": time.perf_counter() - start,
        "processor": usage.ru_utime + usage.ru_stime,
        "memory": most / 1e9,
    }


def anonymous_bytes(pid: int) -> int:
    """Resident memory of a process that is no file's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def raw(inputs: list[Path], output: Path) -> float:
    """Seconds to read all inputs and write one model, in blocks, to the disk."""
    start = time.perf_counter()
    for path in inputs:
        with (path / "model.safetensors").open("rb", buffering=0) as file:
            while file.read(BLOCK):
                pass
    size = (inputs[0] / "model.safetensors").stat().st_size
    with output.open("wb", buffering=0) as file:
        for _ in range(-(-size // BLOCK)):
            file.write(b"\0" * BLOCK)
        os.fsync(file.fileno())
    output.unlink()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="0.5b", choices=SIZES)
    parser.add_argument("--sources", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--tools", nargs="*", default=("automerge", "mergekit"))
    options = parser.parse_args()
    paths = write_models(options.folder, empty_model(SIZES[options.shape]), options.sources)
    rivals = "mergekit" in options.tools and importlib.util.find_spec("mergekit") is not None
    results = {"shape": options.shape, "threads": torch.get_num_threads(), "methods": {}}
    for method in options.methods:
        file = options.folder / f"{method}.yaml"
        file.write_text(yaml.safe_dump(recipe(method, paths)), encoding="utf-8")
        used = paths[1:] if method == "linear" else paths
        row: dict[str, object] = {"raw": raw(used, options.folder / "raw")}
        out = options.folder / "out"
        tools = {"automerge": ["automerge", "merge", str(file), "--out", str(out)]}
        if rivals:
            tools["mergekit"] = ["mergekit-yaml", str(file), str(out), "--no-copy-tokenizer"]
        for tool, command in tools.items():
            shutil.rmtree(out, ignore_errors=True)
            command[0] = str(Path(sys.executable).parent / command[0])
            row[tool] = run(command)
            print(method, tool, row[tool], "raw", row["raw"], flush=True)
        results["methods"][method] = row
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
