"""Tiny models over tokenizers trained here: the same words under the vocabularies people have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.checkpoints.models import llama, perturb

TEXT = [
    "the merged model reads the words of its sources",
    "a source adds tokens and the union keeps them all",
    "größer, naïve, 模型 and punctuation!",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


def bpe(n_tokens: int = 300, text: Sequence[str] = tuple(TEXT)) -> Tokenizer:
    """A byte-level BPE tokenizer; a larger one has all tokens and rules of a smaller."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*text], trainer)
    return tokenizer


def with_added(tokenizer: Tokenizer, *tokens: str) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_tokens([AddedToken(t, special=t.startswith("<|"), normalized=False) for t in tokens])
    return copy


def permuted(tokenizer: Tokenizer, seed: int = 0) -> Tokenizer:
    """The same tokens under other ids, special ones included."""
    content = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    order = torch.randperm(len(vocab), generator=torch.Generator().manual_seed(seed)).tolist()
    content["model"]["vocab"] = {token: order[i] for token, i in vocab.items()}
    for token in content["added_tokens"]:
        token["id"] = content["model"]["vocab"].get(token["content"], token["id"])
    content["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(content))


def write(
    folder: Path,
    tokenizer: Tokenizer | None,
    rows: int | None = None,
    seed: int = 0,
    template: str | None = None,
    **config: Any,
) -> Path:
    """Write a Llama with a row for every token and a tokenizer; `seed` moves its weights."""
    torch.manual_seed(0)
    size = rows or (tokenizer.get_vocab_size() if tokenizer else 300)
    model = (
        perturb(llama(vocab_size=size, **config), seed)
        if seed
        else llama(vocab_size=size, **config)
    )
    if tokenizer is not None:
        model.config.eos_token_id = tokenizer.token_to_id("</s>")
        model.generation_config.eos_token_id = model.config.eos_token_id
    model.save_pretrained(folder)
    if tokenizer is not None:
        fast = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(tokenizer.to_str()),
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
        )
        if template is not None:
            fast.chat_template = template
        fast.save_pretrained(folder)
    return folder


def rewritten(source: Path, folder: Path, tokenizer: Tokenizer, rows: int) -> Path:
    """The same model under another order of tokens: rows moved to their tokens' new ids."""
    from safetensors.torch import load_file

    old = Tokenizer.from_file(str(source / "tokenizer.json")).get_vocab()
    new = tokenizer.get_vocab()
    state = load_file(source / "model.safetensors")
    write(folder, tokenizer, rows, tie_word_embeddings="lm_head.weight" not in state)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        moved = torch.zeros(rows, *tensor.shape[1:])
        for token, i in new.items():
            moved[i] = tensor[old[token]] if token in old else 0.0
        return moved

    edit_weights(folder, lambda _: {n: move(t) if is_indexed(n) else t for n, t in state.items()})
    return folder


def is_indexed(name: str) -> bool:
    return "embed" in name or "lm_head" in name


def edit_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]
) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(dict(change(state)), file, metadata={"format": "pt"})


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder
