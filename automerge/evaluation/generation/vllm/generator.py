"""Answers by vLLM, after each merge compared with the live model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from automerge.errors import PreflightError
from automerge.evaluation.generation.asks import Ask, Asks
from automerge.evaluation.generation.plan import rows_at_once
from automerge.evaluation.generation.probes import probes
from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.generation.vllm.engine import Blueprint, Engine, EngineFailed
from automerge.evaluation.generation.vllm.environment import NoVllm, find_vllm
from automerge.evaluation.generation.vllm.weights import handed_over, layout
from automerge.evaluation.loglikelihood.forward import is_rounding, max_position

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from torch import Tensor
    from transformers import PreTrainedModel

LEAST_UTILIZATION = 0.01
"""The share of a GPU's memory that vLLM wants free; how much it takes is said in bytes."""

BLOCK = 16
"""Tokens of a block of vLLM's cache on a GPU, as vLLM chooses for most models."""
CPU_BLOCK = 32
"""On a CPU; fewer than its 128, so that shorter beginnings are shared."""

Launch: TypeAlias = Callable[[Path, Blueprint, Mapping[str, "Tensor"]], Engine]
"""Starts an engine: of an interpreter, a blueprint, and the weights it begins with."""


class VllmGenerator:
    """Decodes greedily in an engine that is handed the live model's weights after each merge.

    It starts with the generator and has its own copy of the model, on the same devices, divided
    among them where there are several. It is started again where the model gets other layers.

    Raises:
        PreflightError: there is no vLLM, or it cannot run the model.
    """

    def __init__(self, lm: HFLM, cache_bytes: int | None = None, launch: Launch = Engine) -> None:
        try:
            self._vllm = find_vllm()
        except NoVllm as error:
            raise PreflightError(f"evaluation.generator: vllm: {error}; {error.advice}") from None
        self._lm, self._cache_bytes, self._launch = lm, cache_bytes, launch
        self._static = StaticGenerator(lm)
        self._asks = Asks(lm)
        self._engine: tuple[Blueprint, Engine] | None = None
        self._is_current = False
        if self._asks.obstacle is None:
            self._hand_over()

    @property
    def chosen(self) -> str:
        """Name vLLM with its version, or say why lm-eval's own way is taken after all."""
        why = self._asks.obstacle
        return f"vllm {self._vllm.version}" if why is None else f"static: {why}"

    def weights_changed(self) -> None:
        """Hand the weights over before the next answer."""
        self._is_current = False

    def generate(self, requests: Sequence[Instance]) -> list[str]:
        """Return one text per request; those that are not simply greedy are lm-eval's own.

        Raises:
            PreflightError: vLLM cannot run the model, or gives other log-probabilities for it.
            EngineFailed: vLLM failed at this; another engine is started for the next requests.
            torch.OutOfMemoryError: it ran out of memory.
        """
        asks = self._asks.all(requests)
        waiting = list(dict.fromkeys(ask for ask in asks if ask is not None))
        answers = dict(zip(waiting, self._answers(waiting), strict=True)) if waiting else {}
        return self._static.completed(requests, self._asks.texts(asks, answers))

    def _answers(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Let the engine answer; one that failed at this, or was interrupted, is ended."""
        stops = [self._asks.stops(ask) for ask in asks]
        try:
            return self._ready(asks).answer(
                asks,
                self._asks.ends,
                self._asks.penalty,
                lambda number, answer: stops[number].end(answer),
            )
        except BaseException:
            self._drop()
            raise

    def _ready(self, asks: Sequence[Ask]) -> Engine:
        """Return the engine with the live model's weights, compared with it since they changed."""
        if self._engine is not None and self._is_current:
            return self._engine[1]
        engine = self._hand_over()
        self._compare(engine, asks)
        self._is_current = True
        return engine

    def _hand_over(self) -> Engine:
        """Let the engine have the live model's weights; start one where none has their layout."""
        tensors = handed_over(self._lm.model)
        blueprint = self._blueprint(tensors)
        if self._engine is not None and self._engine[0] == blueprint:
            engine = self._engine[1]
            engine.load(tensors)
            return engine
        self._drop()
        try:
            engine = self._launch(self._vllm.interpreter, blueprint, tensors)
            try:
                engine.load(tensors)  # layouts that cannot be reloaded are found at once
            except BaseException:
                engine.close()
                raise
        except EngineFailed as error:
            raise PreflightError(
                f"evaluation.generator: vllm: vLLM {self._vllm.version} cannot run this model, or "
                f"reload it; use evaluation.generator: auto. {str(error).splitlines()[0]}"
            ) from error
        self._engine = blueprint, engine
        return engine

    def _drop(self) -> None:
        if self._engine is not None:
            _, engine = self._engine
            self._engine = None
            engine.close()

    def _blueprint(self, tensors: Mapping[str, Tensor]) -> Blueprint:
        """Describe the engine for the live model as it is."""
        model, longest = self._lm.model, int(self._lm.max_length)
        devices = {p.device for p in model.parameters()}
        on_cpu = model.device.type == "cpu"
        rows = rows_at_once(self._lm)
        arguments: dict[str, Any] = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "enforce_eager": on_cpu,
            "generation_config": "vllm",
            "gpu_memory_utilization": LEAST_UTILIZATION,
            "kv_cache_memory_bytes": self._cache(rows, longest, len(devices), on_cpu),
            "load_format": "safetensors",
            "max_model_len": longest,
            "max_num_seqs": rows,
            "seed": 0,
            "skip_tokenizer_init": True,
            "tensor_parallel_size": len(devices),
            "use_tqdm_on_load": False,
        }
        environment: tuple[tuple[str, str], ...] = ()
        if on_cpu:
            arguments["block_size"] = CPU_BLOCK
            environment = (
                ("CUDA_VISIBLE_DEVICES", ""),
                ("TORCHDYNAMO_DISABLE", "1"),
                ("OMP_NUM_THREADS", str(torch.get_num_threads())),
                ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
            )
        return Blueprint(
            _config(model), layout(tensors), json.dumps(arguments, sort_keys=True), environment
        )

    def _cache(self, rows: int, longest: int, devices: int, on_cpu: bool) -> int:
        """Return the bytes of a device for keys and values: for all answers under way, as far as
        there is room, and for one of the longest in any case."""
        block = CPU_BLOCK if on_cpu else BLOCK
        # One block is vLLM's own, and rows end within one.
        one = (math.ceil(longest / block) + 1) * block * _token_bytes(self._lm.model)
        room = rows * one if self._cache_bytes is None else min(self._cache_bytes, rows * one)
        return math.ceil((max(room, one) + block * _token_bytes(self._lm.model)) / devices)

    @torch.no_grad()
    def _compare(self, engine: Engine, asks: Sequence[Ask]) -> None:
        """Compare log-probabilities of prompts with the live model's.

        Raises:
            PreflightError: they differ by more than rounding.
        """
        model, longest = self._lm.model, int(self._lm.max_length)
        tried = [probe.prompt for probe in probes(asks, longest, max_position(model))]
        tried = [prompt for prompt in tried or [asks[0].prompt] if len(prompt) > 1]
        for prompt, found in zip(tried, engine.logprobs(tried) if tried else (), strict=True):
            tokens = torch.tensor([prompt], device=model.device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
            own = logits.log_softmax(-1).gather(-1, tokens[0, 1:, None].to(logits.device))[:, 0]
            there = torch.tensor(found, device=own.device)
            difference = float((own - there).abs().mean())
            if not is_rounding(difference, float(logits.abs().max()), model.dtype):
                raise PreflightError(
                    f"evaluation.generator: vllm: vLLM {self._vllm.version} gives this model's "
                    f"prompts other log-probabilities than transformers does, by {difference:.2g} "
                    "per token on average: it runs the model in another way; use "
                    "evaluation.generator: auto"
                )


def _config(model: PreTrainedModel) -> str:
    """Return the config.json of a live model.

    Raises:
        PreflightError: its weights are packed.
    """
    config = json.loads(model.config.to_json_string())
    if getattr(model.config, "quantization_config", None) is not None:
        raise PreflightError(
            "evaluation.generator: vllm: the model's weights are quantised, and merged weights "
            "cannot be handed to vLLM in that layout; use evaluation.generator: auto"
        )
    config["architectures"] = [type(model).__name__]
    return json.dumps(config, sort_keys=True)


def _token_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of keys and values of one token, in all layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * shared * size * model.dtype.itemsize)
