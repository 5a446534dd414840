"""Other programs load what `automerge merge` writes.

transformers, lm_eval and PEFT do so in the tests of merging, scoring and adapters. Programs that
are no requirement of ours are tried where they are installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from automerge.commands.merge import merge_file
from automerge.text.terminal import Plain
from tests.evaluation.toys import make_tokenizer
from tests.zoo import write_zoo

pytestmark = pytest.mark.slow

CONVERTER = "LLAMA_CPP"
"""The variable with the folder of llama.cpp's sources, which are not on PyPI."""


def merged(folder: Path, base: Path, left: Path, right: Path) -> Path:
    recipe = folder / "recipe.yaml"
    models = {"base": str(base), "left": str(left), "right": str(right)}
    recipe.write_text(
        json.dumps(
            {
                "models": models,
                "method": "task_arithmetic",
                "sources": {"left": {"weight": 0.5}, "right": {"weight": 0.4}},
            }
        )
    )
    merge_file(recipe, folder / "merged", Plain())
    return folder / "merged"


def sentence_model(folder: Path, seed: int) -> Path:
    """A folder as sentence-transformers saves it: an encoder, pooling and the list of modules."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kind = "sentence_transformers.models."
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_a_merged_encoder_is_a_sentence_transformer(tmp_path: Path) -> None:
    if find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer

    folders = [sentence_model(tmp_path / name, seed) for seed, name in enumerate("abc")]
    out = merged(tmp_path, *folders)
    made = SentenceTransformer(str(out), device="cpu")
    vectors = made.encode(["the cat", "a dog"])
    assert vectors.shape == (2, 16)
    # The formula, on the encoder's weights, and mean pooling, by hand.
    states = [BertModel.from_pretrained(folder).state_dict() for folder in folders]
    wanted = {
        name: base + 0.5 * (states[1][name] - base) + 0.4 * (states[2][name] - base)
        for name, base in states[0].items()
        if base.is_floating_point()
    }
    model = BertModel.from_pretrained(folders[0]).eval()
    model.load_state_dict(wanted, strict=False)
    tokens = make_tokenizer()(["the cat"], return_tensors="pt")
    with torch.no_grad():
        pooled = model(**tokens).last_hidden_state.mean(1)[0]
    torch.testing.assert_close(torch.tensor(vectors[0]), pooled, rtol=1e-4, atol=1e-5)


def test_llama_cpp_converts_a_merge(tmp_path: Path) -> None:
    if CONVERTER not in os.environ:
        pytest.skip(f"set {CONVERTER} to a folder with llama.cpp's convert_hf_to_gguf.py")
    write_zoo(tmp_path)
    out = merged(tmp_path, *(tmp_path / name for name in ("base", "left", "right")))
    script = Path(os.environ[CONVERTER]) / "convert_hf_to_gguf.py"
    file = tmp_path / "merged.gguf"
    done = subprocess.run(
        [sys.executable, str(script), str(out), "--outfile", str(file), "--outtype", "f32"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert file.read_bytes()[:4] == b"GGUF"
