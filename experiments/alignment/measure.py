"""Average two small models that were trained apart, after each kind of alignment.

Prints one line per pair and kind, and then a table of means over pairs with standard errors.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from automerge.checkpoints import Checkpoint, MemoryCheckpoint, open_checkpoint, transformed
from automerge.files.align import ACTIVATION_MATCHING, KINDS
from automerge.merging import ResidentEngine
from automerge.recipe import Recipe, single, uniform_average
from automerge.session.gathering import GatherSettings
from automerge.session.matching import TextReading

TOKENS = 16
STEPS = 80
LENGTH = 8
VALUE, OUTPUT = (f"model.layers.0.self_attn.{name}_proj.weight" for name in ("v", "o"))
WITHIN = ("cca", "procrustes")
"""What values and outputs of matched heads are mapped by in addition, as an experiment."""


def trained(seed: int, chain: torch.Tensor) -> LlamaForCausalLM:
    """Return a model of a Markov chain, from its own initial weights and samples."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / STEPS)
        tokens = walks(chain, 32)
        optimiser.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimiser.step()
    return model.eval()


def walks(chain: torch.Tensor, n: int) -> torch.Tensor:
    """Return random walks of a chain, (n, LENGTH)."""
    tokens = torch.randint(len(chain), (n, 1))
    for _ in range(LENGTH - 1):
        tokens = torch.cat([tokens, torch.multinomial(chain[tokens[:, -1]], 1)], dim=1)
    return tokens


def save(model: LlamaForCausalLM, folder: Path) -> Path:
    """Write a model, with a tokenizer whose words are the tokens' numbers."""
    inner = Tokenizer(models.WordLevel({str(i): i for i in range(TOKENS)}, unk_token="0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="0").save_pretrained(folder)
    return folder


class Trial:
    """One pair of models, and what is measured of it."""

    def __init__(self, seed: int, folder: Path) -> None:
        torch.manual_seed(seed)
        chain = (3 * torch.randn(TOKENS, TOKENS)).softmax(-1)
        folders = [save(trained(2 * seed + i, chain), folder / name) for i, name in enumerate("ab")]
        torch.manual_seed(10_000 + seed)
        self.scored, self.read = walks(chain, 1024), walks(chain, 512)
        text = folder / "text.txt"
        text.write_text(" ".join(str(token) for token in self.read.flatten().tolist()))
        settings = GatherSettings(self.read.numel(), LENGTH, "cpu")
        self._reading = TextReading({None: text}, settings)
        self._live = LlamaForCausalLM.from_pretrained(folders[0]).eval()
        base = open_checkpoint(folders[0])
        self.plain = {"a": base, "b": open_checkpoint(folders[1], base)}

    def aligned(self, kind: str) -> Mapping[str, Checkpoint]:
        """Return both models, the second aligned; "" for as it is."""
        if kind in WITHIN:
            return self._within(kind, self.aligned(ACTIVATION_MATCHING))
        given = {"b": kind} if kind else {}
        return transformed(self.plain, "a", given, reading=self._reading)

    def loss(self, recipe: Recipe, found: Mapping[str, Checkpoint]) -> float:
        """Return the loss of a recipe in nats per token."""
        ResidentEngine(found).merge_into(self._live, recipe)
        with torch.no_grad():
            return float(self._live(self.scored, labels=self.scored).loss)

    def _heads(self, name: str, found: Mapping[str, Checkpoint]) -> torch.Tensor:
        """Return what heads put out on the text, less its mean, (tokens, heads · size)."""
        ResidentEngine(found).merge_into(self._live, single(name))
        seen: list[torch.Tensor] = []
        layer = self._live.model.layers[0].self_attn.o_proj
        handle = layer.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, 1)))
        with torch.no_grad():
            self._live(self.read)
        handle.remove()
        [rows] = seen
        return rows.double() - rows.double().mean(0)

    def _within(self, kind: str, found: Mapping[str, Checkpoint]) -> Mapping[str, Checkpoint]:
        """Map the values of heads that share them by the best matrix, outputs by its inverse."""
        content = {name: found["b"].read(name).clone() for name in found["b"].tensors}
        value, output = content[VALUE].double(), content[OUTPUT].double()
        config = self._live.config
        size, per = 8, config.num_attention_heads // config.num_key_value_heads
        ours, theirs = self._heads("a", found), self._heads("b", found)
        self.condition = 1.0
        for group in range(config.num_key_value_heads):
            heads = [slice(h * size, (h + 1) * size) for h in range(group * per, (group + 1) * per)]
            one, other = (torch.cat([z[:, head] for head in heads]) for z in (ours, theirs))
            matrix = best(kind, one.T @ one, other.T @ other, one.T @ other)
            self.condition = max(self.condition, float(torch.linalg.cond(matrix)))
            rows = slice(group * size, (group + 1) * size)
            value[rows] = matrix.T @ value[rows]
            for head in heads:
                output[:, head] = output[:, head] @ torch.linalg.inv(matrix).T
        content |= {VALUE: value.float(), OUTPUT: output.float()}
        return {"a": found["a"], "b": MemoryCheckpoint(content, config=found["b"].config)}


def best(kind: str, ours: torch.Tensor, theirs: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    """Return the matrix that the second model's outputs are multiplied by on the right.

    Args:
        kind: one of `WITHIN`. CCA-Merge maps by P_B P_A⁻¹, the canonical directions of both.
        ours: covariances of the first model's outputs.
        theirs: of the second's.
        cross: of the first's (rows) with the second's.
    """
    if kind == "procrustes":
        left, _, right = torch.linalg.svd(cross)
        return right.T @ left.T
    left, _, right = torch.linalg.svd(power(ours, -0.5) @ cross @ power(theirs, -0.5))
    return power(theirs, -0.5) @ right.T @ left.T @ power(ours, 0.5)


def power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return a power of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(1e-9 * values.max()) ** exponent) @ vectors.T


def distance(found: Mapping[str, Checkpoint]) -> float:
    """Return the distance of the two models' weights."""
    pairs = ((found["a"].read(name), found["b"].read(name)) for name in found["a"].tensors)
    return math.sqrt(sum(float((one - other).square().sum()) for one, other in pairs))


def main() -> None:
    """Measure as many pairs as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    n_pairs = parser.parse_args().pairs
    transformers.utils.logging.disable_progress_bar()
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(n_pairs):
        with TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            trial = Trial(seed, Path(folder))
            ends = [trial.loss(single(name), trial.plain) for name in "ab"]
            for kind in ("", *KINDS, *WITHIN):
                found = trial.aligned(kind)
                condition = trial.condition if kind in WITHIN else 1.0
                assert abs(trial.loss(single("b"), found) - ends[1]) < 1e-5, kind
                barrier = trial.loss(uniform_average(("a", "b")), found) - sum(ends) / 2
                rows.setdefault(kind, []).append((barrier, distance(found), condition))
                print(seed, kind or "none", f"{barrier:.4f}", flush=True)
    print("| alignment | barrier, nats | distance | condition |")
    print("|---|---|---|---|")
    for kind, own in rows.items():
        barriers, distances, conditions = zip(*own, strict=True)
        error = statistics.stdev(barriers) / math.sqrt(len(barriers))
        shown = f"{statistics.mean(barriers):.4f} ± {error:.4f}"
        far = statistics.mean(distances)
        print(f"| {kind or 'none'} | {shown} | {far:.2f} | {max(conditions):.0f} |")


if __name__ == "__main__":
    main()
