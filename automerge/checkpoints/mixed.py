"""The tensors and the configuration of a mixture of experts that is made of dense models."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from automerge.checkpoints.architecture import architecture, read_config
from automerge.checkpoints.layout import stacks
from automerge.checkpoints.reader import Checkpoint
from automerge.errors import PreflightError
from automerge.mixture import Mixture


@dataclass(frozen=True)
class Form:
    """An architecture of mixtures that is a dense one but for its feed-forward parts.

    `dense` has the `model_type` of the dense ones, `block` is the name of a feed-forward part,
    `projections` has the names of an expert's three matrices by those of the dense part, and
    `count` is the setting that says how many experts there are. With `shared`, every token passes
    one more expert, whose output is multiplied by the sigmoid of a gate's product with its hidden
    state, and layers may be dense.
    """

    model_type: str
    architecture: str
    dense: tuple[str, ...]
    block: str
    projections: Mapping[str, str]
    count: str
    shared: bool = False

    @property
    def name(self) -> str:
        """What to call it."""
        return self.architecture.removesuffix("ForCausalLM")


MIXTRAL = Form(
    "mixtral",
    "MixtralForCausalLM",
    ("llama", "mistral"),
    "block_sparse_moe",
    {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
    "num_local_experts",
)
QWEN2_MOE = Form(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    ("qwen2",),
    "mlp",
    {name: name for name in ("gate_proj", "down_proj", "up_proj")},
    "num_experts",
    shared=True,
)
FORMS = (MIXTRAL, QWEN2_MOE)
PER_TOKEN = "num_experts_per_tok"
"""The setting that says how many experts a token passes."""
_MLP = re.compile(r"model\.layers\.(\d+)\.mlp\.(\w+)\.weight")


class Piece(NamedTuple):
    """A tensor of a mixture, and the dense tensor in whose place it is.

    `expert` is the number of the expert that it is of; `gates` says whether its rows are the gates
    of a layer's experts, `shared` whether it is of the shared expert, its gate included.
    """

    tensor: str
    dense: str
    layer: int | None = None
    expert: int | None = None
    gates: bool = False
    shared: bool = False


def form_of(base: Checkpoint) -> Form:
    """Return the architecture of a mixture of models like this one.

    Raises:
        PreflightError: there is none.
    """
    kind = base.config.get("model_type")
    found = next((form for form in FORMS if kind in form.dense), None)
    if found is None:
        known = ", ".join(name for form in FORMS for name in form.dense)
        raise PreflightError(f"{base.path}: a mixture is made of {known} models; got {kind}")
    return found


def pieces(
    form: Form, n_experts: int, names: Iterable[str], dense: Collection[int] = ()
) -> Iterator[Piece]:
    """Yield the tensors of a mixture, in the order of a dense model's tensors.

    Args:
        form: the mixture's architecture.
        n_experts: how many experts each layer has, but for a shared one.
        names: the dense model's tensors.
        dense: the numbers of layers without experts.
    """
    for name in names:
        match = _MLP.fullmatch(name)
        if match is None or match[2] not in form.projections or int(match[1]) in dense:
            yield Piece(name, name)
            continue
        layer = int(match[1])
        block = f"model.layers.{layer}.{form.block}"
        if match[2] == "gate_proj":
            yield Piece(f"{block}.gate.weight", name, layer, gates=True)
            if form.shared:
                own = f"{block}.shared_expert_gate.weight"
                yield Piece(own, name, layer, gates=True, shared=True)
        if form.shared:
            yield Piece(f"{block}.shared_expert.{match[2]}.weight", name, layer, shared=True)
        for number in range(n_experts):
            own = f"{block}.experts.{number}.{form.projections[match[2]]}.weight"
            yield Piece(own, name, layer, number)


def dense_layers(form: Form, mixture: Mixture, n_layers: int) -> tuple[int, ...]:
    """Return the layers of a recipe's mixture that have no experts, where they need not."""
    return tuple(n for n in range(n_layers) if form.shared and not mixture.has(n))


def settings_of(mixture: Mixture, base: Checkpoint) -> dict[str, Any]:
    """Return `mixed_settings` of a recipe's mixture.

    Raises:
        PreflightError: the base's architecture has no mixture.
    """
    n_layers = max(stacks(base.tensors).values(), default=0)
    dense = dense_layers(form_of(base), mixture, n_layers)
    return mixed_settings(len(mixture.experts), mixture.per_token, base, dense)


def mixed_settings(
    n_experts: int, per_token: int, base: Checkpoint, dense: Collection[int] = ()
) -> dict[str, Any]:
    """Return the configuration of a mixture, but for what the base's says already.

    `dense` has the numbers of layers without experts.

    Raises:
        PreflightError: the base's architecture has no mixture.
    """
    from transformers import PretrainedConfig

    form = form_of(base)
    # The defaults of both architectures differ, so what the base leaves to its own is said.
    full = read_config(base.config).to_dict()
    theirs = read_config({"model_type": form.model_type}).to_dict()
    own = theirs.keys() - PretrainedConfig().to_dict().keys()
    settings = {
        **{key: full[key] for key in sorted(own & full.keys())},
        "model_type": form.model_type,
        "architectures": [form.architecture],
        form.count: n_experts,
        PER_TOKEN: per_token,
        "sliding_window": full.get("sliding_window"),
    }
    if form is MIXTRAL:
        return settings
    return {
        **settings,
        "qkv_bias": True,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": sorted(dense),
        "moe_intermediate_size": full["intermediate_size"],
        "shared_expert_intermediate_size": full["intermediate_size"],
    }


def check_mixed(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse tensors that a mixture does not have, such as biases.

    Args:
        config: the mixture's.
        names: of all its tensors.

    Raises:
        PreflightError: with the first of them.
    """
    found = architecture(config).keys(list(names))
    homeless = [name for name, key in found.items() if key is None]
    if homeless:
        kind = str(config["architectures"][0]).removesuffix("ForCausalLM")
        raise PreflightError(
            f"a {kind} has no {', '.join(homeless[:3])}: models with such tensors cannot be made "
            "into one"
        )
