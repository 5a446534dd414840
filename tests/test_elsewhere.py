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
from sentencepiece import SentencePieceTrainer
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from automerge.commands.merge import merge_file
from automerge.text.terminal import Plain
from tests.evaluation.toys import WORDS, make_tokenizer

pytestmark = pytest.mark.slow

CONVERTER = "LLAMA_CPP"
"""The variable with the folder of llama.cpp's converter. It is not on PyPI by itself, but in the
source distribution of llama-cpp-python, as vendor/llama.cpp."""
VOCABULARY = 300


def merged(folder: Path, base: Path, left: Path, right: Path) -> Path:
    recipe = folder / "recipe.yaml"
    models = {"base": str(base), "left": str(left), "right": str(right)}
    recipe.write_text(
        json.dumps(
            {
                "models": models,
                "base": "base",
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


def llama_folder(folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """A Llama with a tokenizer.model of SentencePiece, as older ones have; returns its weights."""
    torch.manual_seed(seed)
    folder.mkdir()
    SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 3),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCABULARY,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    plain = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model.state_dict()


def test_llama_cpp_converts_a_merge(tmp_path: Path) -> None:
    if CONVERTER not in os.environ:
        pytest.skip(f"set {CONVERTER} to a folder with llama.cpp's convert_hf_to_gguf.py")
    sources = Path(os.environ[CONVERTER])
    folders = [tmp_path / name for name in ("base", "left", "right")]
    states = [llama_folder(folder, seed) for seed, folder in enumerate(folders)]
    out = merged(tmp_path, *folders)
    file = tmp_path / "merged.gguf"
    done = subprocess.run(
        [
            *(sys.executable, str(sources / "convert_hf_to_gguf.py"), str(out)),
            *("--outfile", str(file), "--outtype", "f32"),
        ],
        env={**os.environ, "PYTHONPATH": str(sources / "gguf-py")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sys.path.append(str(sources / "gguf-py"))
    from gguf import GGUFReader

    found = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    pairs = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    for theirs, ours in pairs.items():
        base, left, right = (state[ours] for state in states)
        wanted = base + 0.5 * (left - base) + 0.4 * (right - base)
        torch.testing.assert_close(torch.tensor(found[theirs]), wanted, rtol=1e-5, atol=1e-6)
