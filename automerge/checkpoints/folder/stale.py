"""Files of a model folder that a merged model must not have: other weights, and what is stale.

All other files are kept: processors, tokenizers of every kind, templates, modules of
sentence-transformers, licences, and whatever is unknown here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.ggml", "*.h5", "*.hdf5"),
    *("*.msgpack", "*.onnx", "*.onnx_data*", "*.onnx.data", "*.tflite", "*.mlmodel", "*.ot"),
    *("*.pkl", "*.pickle", "*.joblib", "*.nemo", "*.engine", "*.trt", "*.distcp", "*.llamafile"),
    *("*.index.json", "openvino_*", "consolidated*", "params.json"),
)
TRAINING = (
    *("trainer_state.json", "trainer_log.jsonl", "training_args.*", "training_loss*.png"),
    *("*_results.json", "optimizer*", "scheduler.*", "rng_state*", "events.out.tfevents*"),
    *("latest", "latest_checkpointed_iteration.txt", "*.incomplete", "*.lock"),
)
QUANTISATION = (
    *("quantize_config.json", "quant_config.json", "quantization_config.json", "quant_log.csv"),
    *("hf_quant_config.json", "*imatrix*"),
)
ADAPTERS = ("adapter_config.json", "adapter_model*", "adapters.*")
CARDS = (
    *("readme", "readme.*", "readme_*", "modelcard.*", "model_card.*"),
    *("recipe.yaml", "recipe.yml", "mergekit*.yaml", "mergekit*.yml"),
)
"""Files about what a model is and was made from, which are rewritten."""
CODE = (
    *("*.py", "*.pyc", "*.pyd", "*.ipynb", "*.so", "*.dll", "*.dylib", "*.exe", "*.sh", "*.bat"),
    *("*.ps1", "*.jar"),
)
FILES = (*WEIGHTS, *TRAINING, *QUANTISATION, *ADAPTERS, *CARDS, *CODE, ".*")
FOLDERS = (
    *(".*", "__pycache__", "checkpoint-*", "global_step*", "runs", "logs", "wandb", "mlruns"),
    *("tensorboard", "lightning_logs", "eval_results", "results", "onnx", "openvino", "coreml"),
    *("gguf", "flax", "tf", "original", "metal", "*.mlpackage"),
)
"""Checkpoints and logs of training, and the same model in other formats."""
OF_MODULES = "[0-9]*_*"
"""Folders of sentence-transformers' modules, whose weights are not the transformer's."""


def is_stale(path: PurePosixPath) -> bool:
    """Return whether a merged model must not have this file of a model folder."""
    *folders, name = (part.lower() for part in path.parts)
    return matches(name, FILES) or any(matches(folder, FOLDERS) for folder in folders)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a lower-case name matches any of some patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unwanted_downloads() -> list[str]:
    """Return patterns, for the hub's client, of files that no merge needs.

    In these, `*` also matches across folders. Safetensors, adapters, and the card, which names the
    licence, are downloaded.
    """
    spared = ("*.safetensors", "*.index.json", "params.json", *CARDS, *ADAPTERS)
    files = [pattern for pattern in FILES if pattern not in spared and pattern != ".*"]
    folders = [f"{folder}/*" for folder in FOLDERS if folder != ".*"]
    nested = [f"*/{pattern}" for pattern in (*files, *folders) if not pattern.startswith("*")]
    other_weights = ["[!0-9]*/*.safetensors", "*.bin.index.json", "*.h5.index.json"]
    return [*files, *folders, *nested, *other_weights, ".git*"]
