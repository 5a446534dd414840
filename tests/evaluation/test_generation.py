"""The laws of generators, over ours; one that keeps what old weights gave does not keep them."""

from __future__ import annotations

import pytest
from lm_eval.models.huggingface import HFLM

from automerge.evaluation.generation.static import StaticGenerator
from automerge.testing import GeneratorLaws
from automerge.testing.generators import pair_tokenizer, tiny_model


class Stale(StaticGenerator):
    """Keeps what it computed with the weights before, as an engine does that is not told."""

    def __init__(self, lm: HFLM) -> None:
        super().__init__(lm)
        self._kept: dict[str, str] = {}

    def generate(self, requests):
        new = [r for r in requests if str(r.args) not in self._kept]
        self._kept |= dict(zip((str(r.args) for r in new), super().generate(new), strict=True))
        return [self._kept[str(r.args)] for r in requests]


class Uncut(StaticGenerator):
    """Stops where lm-eval does, and leaves in what follows in the last token."""

    def generate(self, requests):
        more = [request.args[1]["until"][-1][:1] for request in requests]
        return [text + m for text, m in zip(super().generate(requests), more, strict=True)]


class TestGenerators(GeneratorLaws):
    @pytest.fixture(params=[StaticGenerator])
    def make(self, request):
        return request.param


def model():
    return tiny_model("llama", 0, len(pair_tokenizer()))


def test_a_generator_that_keeps_what_old_weights_gave_fails_the_law() -> None:
    GeneratorLaws().test_texts_are_those_of_lm_eval(Stale, model(), False)
    with pytest.raises(AssertionError):
        GeneratorLaws().test_texts_after_a_merge_are_a_fresh_models(Stale, model())


def test_a_generator_that_cuts_elsewhere_fails_the_law() -> None:
    with pytest.raises(AssertionError):
        GeneratorLaws().test_texts_are_cut_at_stops_wherever_these_lie(Uncut, model())
