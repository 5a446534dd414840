"""Tiny adapters as PEFT trains and saves them, and what PEFT makes of them."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from automerge.checkpoints import open_together
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.recipe import single
from tests.checkpoints.models import llama, perturb, save

TOKENS = torch.arange(3, 12)[None]


@dataclass(frozen=True)
class Trained:
    """A base and an adapter on disk, and the logits PEFT gives with the adapter loaded."""

    base: Path
    folder: Path
    logits: torch.Tensor


def train(
    root: Path,
    build=llama,
    dtype=torch.float32,
    rows: int | None = None,
    saved=None,
    model_class=AutoModelForCausalLM,
    seed: int = 1,
    **config,
) -> Trained:
    """Save a base, and an adapter over it with random factors; `rows` resizes the embedding."""
    torch.manual_seed(0)
    base = save(perturb(build().to(dtype), 3, 0.2), root / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = get_peft_model(opened(base, dtype, rows, model_class), lora(**config))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_((torch.randn(parameter.shape) * 0.1).to(parameter.dtype))
        wrapped.save_pretrained(root / "adapter", **(saved or {}))
        return Trained(
            base, root / "adapter", peft_logits(base, root / "adapter", dtype, rows, model_class)
        )


def lora(**config) -> LoraConfig:
    # PEFT changes the lists it is given.
    return LoraConfig(**({"r": 4, "task_type": "CAUSAL_LM"} | copy.deepcopy(config)))


def opened(base: Path, dtype=torch.float32, rows=None, model_class=AutoModelForCausalLM):
    model = model_class.from_pretrained(base, dtype=dtype)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model.eval()


def peft_logits(base, folder, dtype=torch.float32, rows=None, model_class=AutoModelForCausalLM):
    """What PEFT's model gives, and its merged model too; into a tied head PEFT merges twice."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(opened(base, dtype, rows, model_class), folder).eval()
        loaded = logits(model)
        if not model.config.tie_word_embeddings:
            merged = logits(model.merge_and_unload())
            scale = loaded.abs().max()
            tolerance = 1e-5 if dtype == torch.float32 else 0.1
            assert (merged - loaded).abs().max() < tolerance * scale
        return loaded


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.float()


def merged_logits(trained: Trained, out: Path, model_class=AutoModelForCausalLM) -> torch.Tensor:
    """What the adapter alone gives, exported; a live model must have the same bits."""
    checkpoints = open_together({"base": trained.base, "lora": trained.folder}, "base")
    merge_to_folder(single("lora"), checkpoints, out)
    exported = model_class.from_pretrained(out).eval()
    live = model_class.from_pretrained(out).eval()
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.zero_()
    engine = ResidentEngine(checkpoints)
    engine.merge_into(live, single("base"))
    engine.merge_into(live, single("lora"))
    for (name, one), other in zip(
        live.state_dict().items(), exported.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    return logits(exported)


def edit(folder: Path, **changes) -> None:
    """Change an adapter's configuration; None removes nothing, it is written as null."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
