"""Read mergekit-moe's YAML: a mixture of experts made of dense models of one architecture.

Sparse upcycling (Komatsuzaki et al. 2023, arXiv:2212.05055) copies one model's feed-forward layers
into every expert; Branch-Train-MiX (Sukhbaatar et al. 2024, arXiv:2403.07816) takes those of
different fine-tunes, and averages all other weights. mergekit takes these from the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from automerge.errors import ConfigError, nearest
from automerge.files.yaml_file import Located, Plain
from automerge.mergekit.models import Models
from automerge.mergekit.parameters import At, Reader
from automerge.mergekit.tables import DTYPES

KEYS = (
    *("base_model", "experts", "gate_mode", "experts_per_token", "dtype", "architecture"),
    *("shared_experts", "rest", "seed"),
)
EXPERT_KEYS = ("source_model", "positive_prompts", "negative_prompts", "residual_scale")
PROMPTED = ("hidden", "hidden_avg", "hidden_last", "cheap_embed")
DRAWN = ("random", "uniform_random")
REST = ("base", "average")
"""Where all weights but the experts' come from."""
ARCHITECTURES = {
    "mixtral": "mixtral",
    **dict.fromkeys(("qwen", "qwen moe", "qwen2_moe"), "qwen2_moe"),
}
"""The `model_type` of the mixture, by what mergekit calls it, and by itself."""
REFUSED = {
    "noise_scale": "the noise has no seed in mergekit, so it is never the same; remove it",
}
MAX_SEED = 2**63


@dataclass(frozen=True)
class Expert:
    """A model whose feed-forward layers become an expert, and the prompts that its gate is for.

    What the expert adds to the hidden state is scaled by `scale`.
    """

    model: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts: the name of its base, the experts, and how tokens are routed to them.

    `rest` says where all other weights come from: the base, or the average of the experts' models.
    Tensors are stored in `dtype`; None means the base's. Every token passes the `shared` expert, if
    there is one. `architecture` is the `model_type` of the mixture; None means that which models
    like the base have.
    """

    base: str
    experts: tuple[Expert, ...]
    gate: str = "hidden"
    per_token: int = 2
    rest: str = "base"
    dtype: str | None = None
    seed: int = 0
    shared: Expert | None = None
    architecture: str | None = None

    @property
    def gated(self) -> tuple[Expert, ...]:
        """All experts that have a gate, the shared one last."""
        return self.experts if self.shared is None else (*self.experts, self.shared)


def is_moe(data: Mapping[str, Plain]) -> bool:
    """Return whether a mapping is a configuration of mergekit-moe."""
    others = ("recipe", "method", "merge_method")
    return "experts" in data and not any(key in data for key in others)


def parse_moe(document: Located, folder: Path) -> tuple[Mixture, Mapping[str, str]]:
    """Read a configuration of mergekit-moe; return the mixture, and references by model name.

    Relative paths of models are relative to the working directory, else to `folder`.

    Raises:
        ConfigError: with every fault and its location.
    """
    reader = _Mixture(Reader(document), folder)
    mixture = reader.read()
    faults = reader.reader.faults
    if faults or mixture is None:
        raise ConfigError(faults)
    return mixture, {name: reference for reference, name in reader.models.names.items()}


class _Mixture:
    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self.models = Models(reader, folder)

    def read(self) -> Mixture | None:
        data = self.reader.data
        self._keys((), KEYS)
        base = self.models.base()
        if base is None and not self.reader.faults:
            self.reader.fault((), "missing key 'base_model'")
        gate = self._one_of("gate_mode", (*PROMPTED, *DRAWN), "hidden")
        architecture = self._one_of("architecture", tuple(ARCHITECTURES), "")
        rest = self._one_of("rest", REST, "base")
        dtype = self._one_of("dtype", DTYPES, "") or None
        experts = self._experts(gate)
        shared = self._shared(gate)
        per_token = data.get("experts_per_token", 2)
        if type(per_token) is not int or not 1 <= per_token <= max(len(experts), 1):
            wanted = f"expected a number from 1 to {len(experts)}, that of the experts"
            self.reader.fault(("experts_per_token",), f"{wanted}; got {per_token!r}")
        seed = data.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < MAX_SEED:
            message = f"expected a whole number from 0 to {MAX_SEED - 1}, got {seed!r}"
            self.reader.fault(("seed",), message)
        if base is None or self.reader.faults:
            return None
        assert isinstance(per_token, int)
        assert isinstance(seed, int)
        kind = ARCHITECTURES.get(architecture)
        return Mixture(base, experts, gate, per_token, rest, dtype, seed, shared, kind)

    def _keys(self, at: At, known: tuple[str, ...]) -> None:
        mapping = self.reader.at(at) if at else self.reader.data
        assert isinstance(mapping, dict)
        for key in mapping:
            if key in REFUSED:
                self.reader.fault((*at, key), f"{key}: {REFUSED[key]}", key=True)
            elif key not in known:
                message = f"unknown key {key!r}{nearest(str(key), known)}"
                self.reader.fault((*at, key), message, key=True)

    def _one_of(self, key: str, names: tuple[str, ...], default: str) -> str:
        value = self.reader.data.get(key, default)
        lowered = value.lower() if isinstance(value, str) and key == "architecture" else value
        if lowered in names or value == default:
            return str(lowered)
        self.reader.fault((key,), f"expected one of {', '.join(names)}; got {value!r}")
        return default

    def _experts(self, gate: str) -> tuple[Expert, ...]:
        entries = self.reader.data.get("experts")
        fine = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        if not fine or not entries:
            message = "expected a list of experts, each with a `source_model`"
            self.reader.fault(("experts",), f"{message}; got {entries!r}")
            return ()
        assert isinstance(entries, list)
        experts = [self._expert(("experts", i), gate) for i in range(len(entries))]
        prompts = {(expert.positive, expert.negative) for expert in experts}
        if gate in PROMPTED and len(experts) > 1 and len(prompts) == 1 and experts[0].positive:
            message = "all experts have the same prompts, so their gates would be the same"
            self.reader.fault(("experts",), f"{message}; give each its own")
        return tuple(experts)

    def _shared(self, gate: str) -> Expert | None:
        entries = self.reader.data.get("shared_experts")
        if not entries:
            return None
        if not isinstance(entries, list) or [type(entry) for entry in entries] != [dict]:
            message = "expected a list of one expert, with a `source_model`"
            self.reader.fault(("shared_experts",), f"{message}; got {entries!r}")
            return None
        return self._expert(("shared_experts", 0), gate)

    def _expert(self, at: At, gate: str) -> Expert:
        self._keys(at, EXPERT_KEYS)
        model = self.models.name((*at, "source_model"), self.reader.at((*at, "source_model")))
        positive, negative = (
            self._prompts((*at, key)) for key in ("positive_prompts", "negative_prompts")
        )
        if gate in PROMPTED and not positive:
            message = f"gates by {gate} need `positive_prompts` of every expert"
            self.reader.fault(at, f"{message}; add them, or set gate_mode: random")
        scale = self.reader.at((*at, "residual_scale"))
        scale = 1.0 if scale is None else scale
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            self.reader.fault((*at, "residual_scale"), f"expected a number, got {scale!r}")
            scale = 1.0
        return Expert(model or "", positive, negative, float(scale))

    def _prompts(self, at: At) -> tuple[str, ...]:
        prompts = self.reader.at(at)
        prompts = [] if prompts is None else prompts
        if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
            self.reader.fault(at, f"expected a list of texts, got {prompts!r}")
            return ()
        return tuple(map(str, prompts))
