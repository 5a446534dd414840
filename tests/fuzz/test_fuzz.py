"""Bytes of a stranger: accepted, or refused with a message; never a crash, a hang or an escape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.methods import METHODS
from tests.fuzz.targets import TARGETS

EXAMPLES = settings(max_examples=100)
"""`make fuzz` runs the same targets for longer, and by coverage."""

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["math", "code", "base", "../x", "/etc/passwd", "default", "*", ".nan"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["weight", "density", "default", "attention", "t", "lambda", "*"])
            | st.text(max_size=6),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
shard_names = st.sampled_from(
    ["a.safetensors", "../a.safetensors", "/a.safetensors", "b.safetensors", "a.bin", "", "x\0y"]
)
tensor_names = st.sampled_from(["model.embed_tokens.weight", "lm_head.weight", "x"]) | st.text(
    max_size=8
)


def keyed(keys: list[str], values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), values, max_size=9)


recipe_keys = [
    *("recipe", "name", "models", "method", "base", "sources", "parameters", "seed", "dtype"),
    *("tokenizer", "chat_template", "pad_to_multiple_of", "slices", "merge_method", "layers"),
]
methods = st.sampled_from(sorted(METHODS))
sources = st.dictionaries(st.sampled_from(["math", "code", "base"]), plain, max_size=3)
models = st.dictionaries(
    st.sampled_from(["math", "code", "base"]), st.just("./math") | plain, max_size=3
)
recipes = st.fixed_dictionaries(
    {"recipe": st.just(1) | plain, "method": methods | plain, "sources": sources | plain},
    optional={
        "models": models | plain,
        "base": st.just("base") | plain,
        "parameters": plain,
        **{key: plain for key in recipe_keys if key not in ("recipe", "method", "sources")},
    },
)
config_keys = [
    *("name", "base", "models", "tasks", "search", "sampler", "budget", "evaluation", "split"),
    *("out", "seed", "recipes", "executor", "workers", "shortlist", "include_path", "export"),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize("target", TARGETS)
@EXAMPLES
@given(data=st.binary(max_size=300))
def test_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.slow
@EXAMPLES
@given(st.dictionaries(tensor_names, shard_names | plain, max_size=4), plain)
def test_any_index(weight_map: dict[str, object], metadata: object) -> None:
    index = {"metadata": metadata, "weight_map": weight_map}
    TARGETS["index"](json.dumps(index).encode())
    TARGETS["index"](json.dumps(metadata).encode())


@EXAMPLES
@given(recipes | keyed(recipe_keys, plain))
def test_any_recipe(recipe: object) -> None:
    TARGETS["recipe"](json.dumps(recipe).encode())  # JSON is YAML


@EXAMPLES
@given(keyed(config_keys, plain))
def test_any_configuration(config: object) -> None:
    TARGETS["config"](json.dumps(config).encode())


@pytest.mark.slow
@EXAMPLES
@given(
    keyed(["r", "lora_alpha", "target_modules", "rank_pattern", "peft_type", "auto_mapping"], plain)
)
def test_any_adapter_configuration(config: object) -> None:
    TARGETS["adapter"](json.dumps(config).encode())
