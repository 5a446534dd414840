"""Requests for texts as token ids, encoded once, and texts cut as lm-eval cuts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import GenerationConfig

ROOM_FOR_STOP = 2
"""Tokens that lm-eval reads at the end of an answer beyond those that it encodes a stop as."""

NEUTRAL: Mapping[str, object] = {
    "diversity_penalty": 0.0,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_logits": False,
    "output_scores": False,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "return_dict_in_generate": False,
    "use_cache": True,
}
"""Settings of a model's own for generation that change nothing at these values."""

UNREAD = (
    *("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "max_length", "repetition_penalty", "transformers_version"),
    *("_from_model_config", "_commit_hash", "_original_object_hash", "cache_implementation"),
)
"""Settings that are kept here too, or that greedy answers of lm-eval's do not depend on."""


FORCED_END = "forced_eos_token_id"
"""The setting with which an answer that reaches its limit ends in a token that is not read."""


@dataclass(frozen=True)
class Ask:
    """One request: the prompt's token ids, what ends the answer, and most tokens of the answer."""

    prompt: tuple[int, ...]
    until: tuple[str, ...]
    limit: int


class Asks:
    """Requests as lm-eval encodes and truncates them, remembered by their contents."""

    def __init__(self, lm: HFLM) -> None:
        self._lm = lm
        self._known: dict[tuple[str, str], Ask | None] = {}
        self._stops: dict[tuple[str, ...], Stops] = {}

    @property
    def obstacle(self) -> str | None:
        """Why every request is left to lm-eval, if so."""
        return obstacle(self._lm.model.generation_config, self._encoder)

    @property
    def _encoder(self) -> bool:
        return bool(self._lm.backend == "seq2seq")

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        ends = self._lm.model.generation_config.eos_token_id
        return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)

    @property
    def penalty(self) -> float:
        """The model's own penalty on repetition, as transformers has it; 1 is none."""
        return self._lm.model.generation_config.repetition_penalty or 1.0

    def all(self, requests: Sequence[Instance]) -> list[Ask | None]:
        """Return each request's tokens; None where it is left to lm-eval."""
        able = self.obstacle is None
        return [self.of(request) if able else None for request in requests]

    def of(self, request: Instance) -> Ask | None:
        """Return a request's tokens; None where its answer is not simply the likeliest tokens."""
        context, settings = request.args
        key = context, repr(settings)
        if key not in self._known:
            self._known[key] = self._read(context, settings)
        return self._known[key]

    def _read(self, context: str, settings: Mapping[str, Any]) -> Ask | None:
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        lm = self._lm
        kwargs: dict[str, Any] = {**normalize_gen_kwargs(dict(settings), lm.max_gen_toks)}
        until = list(handle_stop_sequences(kwargs.pop("until", None), eos=self._eos))
        limit = int(kwargs.pop("max_gen_toks"))
        greedy = not kwargs.pop("do_sample", False) and not kwargs.pop("temperature", 0.0)
        room = lm.max_length if self._encoder else lm.max_length - limit
        if kwargs or not greedy or limit < 1 or room < 1:
            return None
        prompt, _ = lm.tok_batch_encode([context], left_truncate_len=room, truncation=lm.truncation)
        tokens = tuple(prompt[0].tolist())
        if self._encoder:
            # lm-eval counts the prompt, and transformers the token that a decoder begins with.
            limit += len(tokens) - 1
        return Ask(tokens, tuple(until), limit) if tokens else None

    @cached_property
    def _eos(self) -> str:
        return str(self._lm.tok_decode(self._lm.eot_token_id, skip_special_tokens=False))

    def stops(self, ask: Ask) -> Stops:
        """Return what finds the end of a request's answer."""
        if ask.until not in self._stops:
            self._stops[ask.until] = Stops(self._lm, ask.until)
        return self._stops[ask.until]

    def text(self, ask: Ask, answer: list[int]) -> str:
        """Return an answer as lm-eval does."""
        from lm_eval.models.utils import postprocess_generated_text

        said = self._lm.tok_decode(answer)
        return str(postprocess_generated_text(said, list(ask.until), None))

    def texts(
        self, asks: Sequence[Ask | None], answers: Mapping[Ask, list[int]]
    ) -> list[str | None]:
        """Return the text of every ask; None where it is left to lm-eval."""
        texts = {ask: self.text(ask, answer) for ask, answer in answers.items()}
        return [None if ask is None else texts[ask] for ask in asks]


class Stops:
    """Finds the token with which an answer ends, looking at the last ones only.

    lm-eval ends an answer where a stop is in the text of about as many last tokens as it encodes
    the stop as, special tokens included. Where the model spells the stop in more tokens, lm-eval
    cuts the text afterwards; then the rest need not be generated.
    """

    def __init__(self, lm: HFLM, until: tuple[str, ...]) -> None:
        self._lm, self._until = lm, until
        self._windows = {
            stop: len(lm.tokenizer.encode(stop, add_special_tokens=False)) + ROOM_FOR_STOP
            for stop in until
        }
        self._last = {stop[-1:] for stop in until}
        # Decoding drops the space before a text, so a stop's last may be of any token.
        self._always = not {"", " "}.isdisjoint(self._last)
        self._may_end: dict[int, bool] = {}

    def end(self, answer: list[int]) -> bool:
        """Return whether an answer ends with its last token."""
        token = answer[-1]
        if token not in self._may_end:
            self._may_end[token] = self._always or self._contains(token)
        return self._may_end[token] and self._found(answer)

    def _contains(self, token: int) -> bool:
        """Return whether a token's text has the last character of a stop, or part of one."""
        text = self._lm.tokenizer.decode([token])
        return "�" in text or any(last in text for last in self._last)

    def _found(self, answer: list[int]) -> bool:
        decode = self._lm.tokenizer.decode
        texts = {size: decode(answer[-size:]) for size in set(self._windows.values())}
        if any(stop in texts[size] for stop, size in self._windows.items()):
            return True
        text = self._lm.tok_decode(answer)
        return any(stop in text for stop in self._until)


def obstacle(config: GenerationConfig, encoder: bool = False) -> str | None:
    """Return which of a model's own settings only transformers' `generate` follows, if any.

    Answers of models with an encoder are made by that, and end at their limit as they do there.
    """
    for name, value in sorted(config.to_diff_dict().items()):
        neutral = name in NEUTRAL and value == NEUTRAL[name]
        unread = name in UNREAD or (encoder and name == FORCED_END)
        if value is not None and not unread and not neutral:
            return f"its generation_config.json sets {name}: {value!r}"
    return None
