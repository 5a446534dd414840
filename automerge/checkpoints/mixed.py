"""The tensors and the configuration of a mixture of experts that is made of dense models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from automerge.checkpoints.architecture import architecture, read_config
from automerge.checkpoints.reader import Checkpoint
from automerge.errors import PreflightError


@dataclass(frozen=True)
class Form:
    """An architecture of mixtures that is a dense one but for its feed-forward parts.

    `block` is the name of such a part, `projections` has the names of an expert's three matrices by
    those of the dense part.
    """

    model_type: str
    architecture: str
    block: str
    projections: Mapping[str, str]


MIXTRAL = Form(
    "mixtral",
    "MixtralForCausalLM",
    "block_sparse_moe",
    {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
)
FORMS: Mapping[str, Form] = {"llama": MIXTRAL, "mistral": MIXTRAL}
"""By the `model_type` of the dense models."""
_MLP = re.compile(r"model\.layers\.(\d+)\.mlp\.(\w+)\.weight")


class Piece(NamedTuple):
    """A tensor of a mixture, and the dense tensor in whose place it is.

    `expert` is the number of the expert that it is of; `gates` says whether its rows are the gates
    of a layer's experts.
    """

    tensor: str
    dense: str
    layer: int | None = None
    expert: int | None = None
    gates: bool = False


def form_of(base: Checkpoint) -> Form:
    """Return the architecture of a mixture of models like this one.

    Raises:
        PreflightError: there is none.
    """
    kind = base.config.get("model_type")
    found = FORMS.get(str(kind))
    if found is None:
        known = " or ".join(FORMS)
        raise PreflightError(f"{base.path}: a mixture is made of {known} models; got {kind}")
    return found


def pieces(form: Form, n_experts: int, names: Iterable[str]) -> Iterator[Piece]:
    """Yield the tensors of a mixture, in the order of a dense model's tensors."""
    for name in names:
        match = _MLP.fullmatch(name)
        if match is None or match[2] not in form.projections:
            yield Piece(name, name)
            continue
        layer = int(match[1])
        block = f"model.layers.{layer}.{form.block}"
        if match[2] == "gate_proj":
            yield Piece(f"{block}.gate.weight", name, layer, gates=True)
        for number in range(n_experts):
            own = f"{block}.experts.{number}.{form.projections[match[2]]}.weight"
            yield Piece(own, name, layer, number)


def mixed_settings(n_experts: int, per_token: int, base: Checkpoint) -> dict[str, Any]:
    """Return the configuration of a mixture, but for what the base's says already.

    Raises:
        PreflightError: the base's architecture has no mixture.
    """
    from transformers import MixtralConfig, PretrainedConfig

    form = form_of(base)
    # The defaults of both architectures differ, so what the base leaves to its own is said.
    full = read_config(base.config).to_dict()
    own = MixtralConfig().to_dict().keys() - PretrainedConfig().to_dict().keys()
    return {
        **{key: full[key] for key in sorted(own & full.keys())},
        "model_type": form.model_type,
        "architectures": [form.architecture],
        "num_local_experts": n_experts,
        "num_experts_per_tok": per_token,
        "sliding_window": full.get("sliding_window"),
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
        kind = config["model_type"].capitalize()
        raise PreflightError(
            f"a {kind} has no {', '.join(homeless[:3])}: models with such tensors cannot be made "
            "into one"
        )
