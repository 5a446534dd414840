"""`make fuzz`: atheris on every target for a while; prints executions and findings."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

SEEDS = {
    "yaml": b"a: 1\nmodels: {m: ./x}\n",
    "recipe": b"recipe: 1\nmethod: linear\nmodels: {math: ./math}\nsources: {math: {weight: 1}}\n",
    "config": b"base: ./base\nmodels: [./math]\ntasks: [arc_easy]\n",
    "header": (78).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "index": b'{"weight_map": {"model.embed_tokens.weight": "a.safetensors"}}',
    "adapter": b'{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}',
}


def fuzz(target: str, corpus: Path, seconds: int) -> None:
    """Fuzz one target in this process, which atheris ends."""
    import atheris

    atheris.instrument_all()
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-print_final_stats=1"]
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    given = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.stderr.write("fuzzing needs atheris: pip install atheris\n")
        return 2
    if given.target is not None:
        fuzz(given.target, given.corpus / given.target, given.seconds)
    findings = 0
    for target in TARGETS:
        corpus = given.corpus / target
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / "seed").write_bytes(SEEDS[target])
        command = [sys.executable, "-m", "tests.fuzz.run", "--target", target]
        limits = ["--seconds", str(given.seconds), "--corpus", str(given.corpus)]
        done = subprocess.run([*command, *limits], capture_output=True, text=True, check=False)
        count = [line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line]
        findings += done.returncode != 0
        verdict = "no finding" if done.returncode == 0 else f"FOUND\n{done.stderr[-3000:]}"
        sys.stdout.write(f"{target}: {count[0] if count else '?'} executions, {verdict}\n")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
