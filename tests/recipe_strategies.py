"""Random recipes of every method."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import strategies as st

from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.methods.dataless import DATALESS

numbers = st.floats(0.0, 1.0).map(lambda x: round(x, 4))
knots = st.lists(numbers, min_size=1, max_size=5)
selectors = st.sampled_from(
    [
        *("attention", "mlp", "norm", "embedding", "other"),
        *("*q_proj*", "*layers.1.*", "model.layers.*.mlp.*", "*weight", "*[oq]_proj*", "*nothing*"),
        *("depth<0.3", "depth<1"),
    ]
)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    chosen = draw(st.lists(selectors, max_size=3, unique=True))
    parts = {selector: draw(knots) for selector in chosen}
    if not parts or draw(st.booleans()):
        parts["default"] = draw(knots)
    return Profile.of(parts)


@st.composite
def recipes(draw: st.DrawFn, methods: Collection[str] = DATALESS) -> Recipe:
    method = METHODS[draw(st.sampled_from(sorted(methods)))]
    count = draw(st.integers(method.min_sources, method.max_sources or 3))
    sources = tuple(
        RecipeSource(
            f"model{i}",
            {k.name: draw(profiles()) for k in method.source_knobs if draw(st.booleans())},
        )
        for i in range(count)
    )
    knobs = {
        knob.name: draw(st.booleans()) if knob.kind == "bool" else draw(profiles())
        for knob in method.recipe_knobs
        if draw(st.booleans())
    }
    base = "base" if method.anchored else None
    dtype = draw(st.sampled_from([None, "bfloat16", "float32"]))
    return Recipe(method.name, sources, base, knobs, dtype=dtype)
