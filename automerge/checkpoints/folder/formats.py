"""Folders without safetensors: what they contain instead, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from automerge.checkpoints.folder.stale import TRAINING, matches

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ELSEWHERE = "use the model it was converted from, or its repository's safetensors"
FORMATS = (
    ("*.gguf", f"GGUF weights, which are not read; {ELSEWHERE}"),
    (
        "consolidated*.safetensors",
        f"weights under Mistral's own names; download {SINGLE} or model-*.safetensors from the "
        "same repository",
    ),
    (
        "*.safetensors",
        f"weights under a name that transformers does not read; if they are a whole model, rename "
        f"the file to {SINGLE} or download the index that names its parts",
    ),
    (
        "*.distcp",
        "parts of an FSDP checkpoint; join them with `accelerate merge-weights FOLDER OUT`",
    ),
    (
        "*_model_states.pt",
        "parts of a DeepSpeed checkpoint; join them with its script: `python zero_to_fp32.py . "
        "OUT --safe_serialization`",
    ),
    ("*.h5", f"TensorFlow weights, which are not read; {ELSEWHERE}"),
    ("*.msgpack", f"Flax weights, which are not read; {ELSEWHERE}"),
    ("*.onnx", f"ONNX weights, which are not read; {ELSEWHERE}"),
    ("*.nemo", f"NeMo weights, which are not read; {ELSEWHERE}"),
    ("*.npz", f"MLX weights, which are not read; {ELSEWHERE}"),
)
"""Names of other programs' weights, in the folder or its subfolders, and what they are."""
MAX_LISTED = 10_000


def without_weights(folder: Path) -> str:
    """Describe a folder that has no safetensors under the names that transformers reads."""
    names = listed(folder)
    top = [name for name in names if "/" not in name]
    pickles = [n for n in top if matches(n.lower(), PICKLES) and not matches(n.lower(), TRAINING)]
    if pickles:
        return (
            f"only pickle weights ({pickles[0]}), which can run code when loaded and are not read; "
            'if you trust them: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder.name}-safetensors')\""
        )
    for pattern, meaning in FORMATS:
        for name in names:
            if matches(name.rpartition("/")[2].lower(), (pattern,)):
                return f"no {SINGLE}, but {name}: {meaning}"
    if not names:
        return "the folder is empty; download the model again"
    return f"no {SINGLE} and no {INDEX}; is it a model folder?"


def listed(folder: Path) -> list[str]:
    """Return the names of files in a folder and its subfolders, without following links."""
    names: list[str] = []
    try:
        for entry in sorted(folder.iterdir()):
            names.append(entry.name)
            if entry.is_dir() and not entry.is_symlink():
                names += [f"{entry.name}/{inner.name}" for inner in sorted(entry.iterdir())]
            if len(names) > MAX_LISTED:
                break
    except OSError:
        return names
    return names
