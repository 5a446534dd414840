"""Which settings of two configurations differ, and what that means for merging their weights.

Compared are the settings that an architecture's configuration class declares, with their defaults,
at every level of nesting. Models whose settings make the same weights compute something else cannot
be merged; settings of positions, of how far back a model looks, or of rounding are the base's in
the merged model, and differences are reported; how a model is trained, saved or run does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from automerge.checkpoints.architecture import HOW_IT_RUNS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Weight: TypeAlias = Literal["fatal", "notable", "unknown"]

# How a configuration was saved, how a model is trained or run, and its special tokens, which are
# compared along with the tokenizers.
INCIDENTAL = re.compile(
    r"_name_or_path|name_or_path|transformers_version|architectures|torch_dtype|dtype|use_cache"
    r"|output_\w+|return_dict|use_return_dict|chunk_size_feed_forward|is_decoder|problem_type"
    r"|id2label|label2id|num_labels|pretraining_tp|\w*dropout\w*|\w*drop_?path\w*|\w*pdrop|layerdrop"
    r"|\w*layerdrop|\w*initializer\w*|\w*init_std|init_std|\w*_loss\w*|\w*jitter\w*|gradient_\w+"
    r"|(\w+_)?(bos|eos|pad|sep|cls|mask|decoder_start|forced_bos|forced_eos)_token_id|_\w+"
)
# What the merged model gets from the base, and what a difference means.
MEANINGS: Mapping[str, str] = {
    r"rope_\w+|rotary_\w+|partial_rotary_factor|max_position_embeddings|original_max_position\w*"
    r"|n_positions|n_ctx|max_sequence_length|max_seq_len|seq_length|alibi\w*|\w*mrope\w*": (
        "weights trained for other positions lose some of their skill, more so on long texts"
    ),
    r"sliding_window\w*|use_sliding_window|max_window_layers|attention_chunk_size|layer_types"
    r"|local_\w+|global_\w+|window_size|attn_window\w*": ("it looks back as far as the base does"),
    r"\w*_eps|\w*epsilon|\w*softcap\w*|\w*logit_scale\w*": "the base's arithmetic, nearly the same",
    r"num_experts_per_tok\w*|num_selected_experts|moe_k|top_k_experts|router_\w+|norm_topk_prob": (
        "each token goes to as many experts as in the base, chosen by its rule"
    ),
    r"\w*_token_(id|index)|image_seq_length|mm_tokens_per_image|\w*image_size|vision_feature_\w+"
    r"|image_grid_pinpoints": "images are inserted into text as in the base",
}
# Activations that differ by rounding, or too little to matter in training.
ACTIVATIONS = (
    {"silu", "swish"},
    {"gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python"},
)
TIES = ("tie_word_embeddings",)


@dataclass(frozen=True)
class Difference:
    """A setting that differs between two models: its path, both values, and how much it matters.

    `meaning` says what a notable difference means.
    """

    path: str
    ours: Any
    theirs: Any
    weight: Weight
    meaning: str = ""


def compare_settings(
    ours: PretrainedConfig, theirs: PretrainedConfig, tokens: bool = True
) -> list[Difference]:
    """Return every difference that matters or should be known.

    Args:
        ours: the base's configuration.
        theirs: the source's configuration.
        tokens: whether to compare the number of tokens.
    """
    skipped = frozenset(TIES if tokens else (*TIES, "vocab_size"))
    if ours.model_type != theirs.model_type:
        return [Difference("model_type", ours.model_type, theirs.model_type, "fatal")]
    return list(_differences(ours, theirs, "", skipped))


def _differences(
    ours: PretrainedConfig, theirs: PretrainedConfig, above: str, skipped: frozenset[str]
) -> Iterator[Difference]:
    declared = {field.name for kind in (type(ours), type(theirs)) for field in fields(kind)}
    mine, other = vars(ours), vars(theirs)
    for key in sorted(declared | mine.keys() | other.keys()):
        if key in skipped or key in HOW_IT_RUNS or INCIDENTAL.fullmatch(key):
            continue
        a, b = (getattr(config, key, None) for config in (ours, theirs))
        path = f"{above}{key}"
        if a is not None and b is not None and is_config(a) and is_config(b):
            if a.model_type != b.model_type:
                yield Difference(f"{path}.model_type", a.model_type, b.model_type, "fatal")
            else:
                yield from _differences(a, b, f"{path}.", skipped)
        elif re.match(r"rope_\w+$", key) and positions(ours, a) == positions(theirs, b):
            continue
        elif normal(a) != normal(b):
            yield judged(path, key, a, b, key in declared)


def judged(path: str, key: str, ours: Any, theirs: Any, declared: bool) -> Difference:
    """Judge how much one difference matters."""
    if not declared:
        return Difference(path, ours, theirs, "unknown")
    if isinstance(ours, str) and any({ours, theirs} <= names for names in ACTIVATIONS):
        return Difference(path, ours, theirs, "notable", "nearly the same function")
    for pattern, meaning in MEANINGS.items():
        if re.fullmatch(pattern, key):
            return Difference(path, ours, theirs, "notable", meaning)
    return Difference(path, ours, theirs, "fatal")


def positions(config: PretrainedConfig, rope: Any) -> Any:
    """Return rotary settings without their older spelling, but with related settings added."""
    if not isinstance(rope, Mapping):
        return normal(rope)
    if any(isinstance(value, Mapping) for value in rope.values()):  # one per kind of layer
        return {str(kind): positions(config, value) for kind, value in rope.items()}
    original = "original_max_position_embeddings"
    stated = {"partial_rotary_factor": 1.0, original: getattr(config, original, None)}
    return normal({**stated, **{key: value for key, value in rope.items() if key != "type"}})


def is_config(value: object) -> bool:
    """Return whether a setting is itself a configuration."""
    return hasattr(value, "model_type") and hasattr(value, "to_dict")


def normal(value: Any) -> Any:
    """Return a setting in comparable form: configurations and tuples as in JSON."""
    if is_config(value):
        return normal(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): normal(content) for key, content in value.items() if content is not None}
    if isinstance(value, list | tuple):
        return [normal(content) for content in value]
    return value
