"""Merge the experts of a small trained mixture into fewer, and measure what each number costs.

    OMP_NUM_THREADS=1 python -m experiments.experts.measure runs/zoo/text

The mixture is made of the zoo's four fine-tunes, each twice, with all else averaged, and trained
on a little of all four kinds of text. A line of the table is a model with some number of experts
per layer, with its bits per byte on documents that no model was trained on and no task has.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from automerge.arrays import Floats
from automerge.checkpoints import open_checkpoint
from automerge.evidence import MemoryEvidence
from automerge.evidence.activations import first_pieces, gather_activations
from automerge.evidence.routing import Routing, gather_routing
from automerge.expert_groups import BY, ExpertGroups
from automerge.merging import ResidentEngine, merge_to_folder
from automerge.mixture import Mixture
from automerge.recipe import single, uniform_average
from experiments.demo_zoo.train import adamw, train
from experiments.rows import append, read
from experiments.search_quality.corpus import DOMAINS, Domain, read_domain
from experiments.search_quality.model import BATCH, IGNORED, make_rows
from experiments.search_quality.model import load as load_dense
from experiments.search_quality.zoo_text import ITEMS, SEED, SOURCE_RATE

RESULTS = Path(__file__).parent / "results" / "models.csv"
COPIES, PER_TOKEN = 2, 2
TRAINED = 1_200
"""Documents of each kind that the mixture is trained on."""
READ = 60
"""Documents of each kind that routing is watched on; the mixture was trained on them."""
SHOWN = 200
"""Held-out documents of each kind behind a figure."""
COUNTS = (6, 4, 2, 1)
"""Experts per layer that are left."""
Z_95 = 1.96


@dataclass(frozen=True)
class Row:
    """A model; losses are bits per byte, the mean over the kinds of text."""

    experts: int
    by: str
    size: float
    """Its parameters, as a share of the whole mixture's."""
    loss: float
    behind: float
    """By how much the loss is higher than the whole mixture's."""
    behind_error: float
    behind_outputs: float
    """By how much it is higher than with experts grouped by outputs."""
    behind_outputs_error: float
    code: float
    manual: float
    headers: float
    prose: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--runs", type=Path, default=Path("runs/experts"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    began = time.process_time()
    domains = {name: read_domain(parts, given.seed) for name, parts in DOMAINS.items()}
    tokenizer = AutoTokenizer.from_pretrained(given.zoo / "base")
    folder = given.runs / f"mixture-{given.seed}"
    if not folder.is_dir():
        build(given.zoo, domains, tokenizer, folder, given.seed)
    print(f"mixture after {time.process_time() - began:.0f} s", flush=True)
    done = {(int(line["experts"]), line["by"]) for line in read(given.out)}
    evaluate, whole = Evaluation(domains, tokenizer), load(folder)
    known = watched(whole, folder, domains, tokenizer)
    first, size = evaluate(whole), whole.num_parameters()
    outputs = first

    def measure(experts: int, by: str, model: nn.Module) -> None:
        if (experts, by) not in done:
            share = sum(p.numel() for p in model.parameters()) / size
            made = row(experts, by, share, evaluate(model), first, outputs)
            append(made, given.out)
            print(asdict(made), flush=True)

    measure(len(DOMAINS) * COPIES, "all", whole)
    measure(0, "dense average", average_of(given.zoo))
    for count in COUNTS:
        folders = {}
        for by, repair in itertools.product(BY, (0.0, 1.0)):
            name = f"{by}, repaired" if repair else by
            folders[name] = given.runs / f"{by}-{count}-{repair:g}"
            groups = ExpertGroups(count, by)
            merge_fewer(folder, known, groups, repair, folders[name])
        outputs = evaluate(load(folders["outputs"]))
        for name, target in folders.items():
            measure(count, name, load(target))
        for name, layers in baselines(known["routing"], count, given.seed).items():
            measure(count, name, regrouped(whole, layers))
    print(f"measured after {time.process_time() - began:.0f} s", flush=True)


def build(
    zoo: Path,
    domains: Mapping[str, Domain],
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    seed: int,
) -> None:
    """Make a mixture of the zoo's fine-tunes, with random gates, and train all of it."""
    names = tuple(domains)
    checkpoints = {name: open_checkpoint(zoo / "sources" / name) for name in names}
    mixture = Mixture(names * COPIES, PER_TOKEN, "random")
    untrained = target.parent / f"untrained-{seed}"
    recipe = replace(uniform_average(names), mixture=mixture, seed=seed)
    merge_to_folder(recipe, checkpoints, untrained, overwrite=True)
    model = load(untrained)
    with torch.no_grad():
        for layer in model.model.layers:
            # Of the size of a new router's: with larger ones, copies hardly ever share a token.
            layer.mlp.gate.weight *= model.config.initializer_range
    texts = [text for domain in domains.values() for text in domain.train[:TRAINED]]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    rows, labels = make_rows(tokenizer, [texts[i] for i in order])
    train(model, rows, labels, [adamw(model.parameters(), SOURCE_RATE)], BATCH)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def load(folder: Path) -> MixtralForCausalLM:
    """The stored weights in float32."""
    loaded: MixtralForCausalLM = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


def average_of(zoo: Path) -> LlamaForCausalLM:
    """The plain average of the zoo's fine-tunes, dense."""
    model = load_dense(zoo / "base")
    checkpoints = {name: open_checkpoint(zoo / "sources" / name) for name in DOMAINS}
    ResidentEngine(checkpoints).merge_into(model, uniform_average(tuple(DOMAINS)))
    return model


def watched(
    model: MixtralForCausalLM,
    folder: Path,
    domains: Mapping[str, Domain],
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, MemoryEvidence]:
    """How the mixture routes and what its units put out, on documents that it was trained on."""
    each = zip(*(domain.train[:READ] for domain in domains.values()), strict=True)
    texts = [text for kinds in each for text in kinds]
    pieces = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts)["input_ids"]]
    engine = ResidentEngine({"whole": open_checkpoint(folder)})
    engine.merge_into(model, single("whole"))
    tensors = engine.tensors(model)
    routing = gather_routing(model, tensors, pieces)
    units, some = gather_activations(model, tensors, pieces), first_pieces(pieces)
    return {
        "routing": MemoryEvidence("routing", "0" * 32, routing),
        "activations": MemoryEvidence("activations", "1" * 32, units, some),
    }


def merge_fewer(
    folder: Path,
    known: Mapping[str, MemoryEvidence],
    groups: ExpertGroups,
    repair: float,
    target: Path,
) -> None:
    """Write the mixture with its experts merged by automerge, and calibrated if asked."""
    digests = {kind: {"whole": own.digest} for kind, own in known.items()}
    recipe = replace(single("whole"), experts=groups, repair=repair, evidence=digests)
    evidence = {own.digest: own for own in known.values()}
    checkpoints = {"whole": open_checkpoint(folder)}
    merge_to_folder(recipe, checkpoints, target, evidence=evidence, overwrite=True)


Groups = Sequence[Sequence[int]]


def baselines(routing: MemoryEvidence, count: int, seed: int) -> dict[str, list[Groups]]:
    """What needs no clusters, layer by layer: keep those used most, or average groups by lot."""
    used = [Routing.unpacked(found).shares for found in routing.tensors.values()]
    kept = [own.argsort(descending=True)[:count].sort().values for own in used]
    generator = torch.Generator().manual_seed(seed)
    lots = [torch.randperm(len(own), generator=generator).tensor_split(count) for own in used]
    return {
        "drop": [[[int(n)] for n in own] for own in kept],
        "by lot": [[group.tolist() for group in own] for own in lots],
    }


@torch.no_grad()
def regrouped(model: MixtralForCausalLM, layers: Sequence[Groups]) -> MixtralForCausalLM:
    """A mixture whose experts are plain averages of groups of another's, routers' rows as well."""
    count = len(layers[0])
    config = type(model.config).from_dict(model.config.to_dict())
    config.num_local_experts = count
    config.num_experts_per_tok = min(PER_TOKEN, count)
    made = MixtralForCausalLM(config)
    state = dict(model.state_dict())
    for number, groups in enumerate(layers):
        for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
            key = f"model.layers.{number}.mlp.{name}"
            state[key] = torch.stack([state[key][list(own)].mean(0) for own in groups])
    made.load_state_dict(state)
    return made.eval()


class Evaluation:
    """Bits and bytes of held-out documents that come after those of the zoo's tasks."""

    def __init__(self, domains: Mapping[str, Domain], tokenizer: PreTrainedTokenizerFast) -> None:
        shown = slice(ITEMS, ITEMS + SHOWN)
        self._rows = {n: make_rows(tokenizer, d.held_out[shown]) for n, d in domains.items()}
        self.n_bytes = {
            name: np.array(
                [self._bytes(tokenizer, row, own) for row, own in zip(*rows, strict=True)]
            )
            for name, rows in self._rows.items()
        }

    @staticmethod
    def _bytes(tokenizer: PreTrainedTokenizerFast, row: Tensor, labels: Tensor) -> int:
        return len(str(tokenizer.decode(row[labels != IGNORED])).encode())

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, Floats]:
        """Return bits per byte of each document in units of the mean document: (documents,)."""
        found = {}
        for name, (rows, labels) in self._rows.items():
            parts = []
            for start in range(0, len(rows), 50):
                chosen = slice(start, start + 50)
                logits = model(input_ids=rows[chosen], use_cache=False).logits[:, :-1]
                wanted = labels[chosen, 1:]
                each = nn.functional.cross_entropy(
                    logits.transpose(1, 2), wanted, reduction="none", ignore_index=IGNORED
                )
                parts.append(each.sum(1).double().numpy() / math.log(2))
            found[name] = np.concatenate(parts) / self.n_bytes[name].mean()
        return found


def row(
    experts: int,
    by: str,
    size: float,
    bits: Mapping[str, Floats],
    whole: Mapping[str, Floats],
    outputs: Mapping[str, Floats],
) -> Row:
    """Compare a model's documents with those of the whole mixture, one by one."""
    each = {name: round(float(own.mean()), 4) for name, own in bits.items()}
    behind, error = difference(bits, whole)
    other, other_error = difference(bits, outputs)
    loss = round(float(np.mean([own.mean() for own in bits.values()])), 4)
    return Row(experts, by, round(size, 3), loss, behind, error, other, other_error, **each)


def difference(bits: Mapping[str, Floats], others: Mapping[str, Floats]) -> tuple[float, float]:
    """The mean difference over the kinds, and 1.96 standard errors over documents."""
    gaps = [bits[name] - others[name] for name in bits]
    variance = sum(gap.var(ddof=1) / len(gap) for gap in gaps) / len(gaps) ** 2
    return round(float(np.mean([g.mean() for g in gaps])), 4), round(float(Z_95 * variance**0.5), 4)


if __name__ == "__main__":
    main()
