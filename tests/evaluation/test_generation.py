"""The law of generators: texts are of the weights at the call, whatever was generated before."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.lm_eval.isolation import isolated
from tests.evaluation.toys import WORDS, make_model, make_tokenizer

PREFIX = " ".join(WORDS[:6])
REQUESTS = [
    Instance("generate_until", {}, (f"{PREFIX} {word}", {"until": ["."], "max_gen_toks": 6}), 0)
    for word in WORDS[:8]
]


class Stale(StaticGenerator):
    """Keeps what it computed with the weights before, as an engine does that is not told."""

    def __init__(self, lm: HFLM) -> None:
        super().__init__(lm)
        self._kept: dict[str, str] = {}

    def generate(self, requests):
        new = [r for r in requests if r.args[0] not in self._kept]
        self._kept |= dict(zip((r.args[0] for r in new), super().generate(new), strict=True))
        return [self._kept[r.args[0]] for r in requests]


def texts(kind, model, again):
    with isolated():
        lm = HFLM(pretrained=model, tokenizer=make_tokenizer(), batch_size=4)
        generator = kind(lm)
        generator.weights_changed()
        generator.generate(REQUESTS)
        with torch.no_grad():
            for parameter, other in zip(model.parameters(), again.parameters(), strict=True):
                parameter.copy_(other)
        generator.weights_changed()
        return generator.generate(REQUESTS)


def expected(again):
    with isolated():
        lm = HFLM(pretrained=again, tokenizer=make_tokenizer(), batch_size=4)
        return lm.generate_until(REQUESTS, disable_tqdm=True)


@pytest.mark.parametrize("kind", [StaticGenerator])
def test_texts_after_a_merge_are_a_fresh_models(kind) -> None:
    again = make_model("llama", 5)
    assert texts(kind, make_model("llama", 0), again) == expected(again)


def test_a_generator_that_keeps_what_old_weights_gave_fails_the_law() -> None:
    again = make_model("llama", 5)
    assert texts(Stale, make_model("llama", 0), again) != expected(again)
