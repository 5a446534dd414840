"""What it costs to hand a candidate's weights to vLLM, beside what it generates with them.

    export AUTOMERGE_VLLM_PYTHON=~/vllm/bin/python
    python -m experiments.generation.handing_over --layers 6

A random Llama in float32. With `--devices 2`, the engine is tensor parallel over so many, as far as
vLLM's build for processors can be.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM

from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.generation.vllm.engine import Blueprint, Engine
from automerge.evaluation.generation.vllm.generator import VllmGenerator
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.testing.generators import LETTERS, pair_tokenizer, request

HEADS, HEAD_SIZE = 6, 64
PROMPT, WINDOW = 100, 512
"""Letters of a prompt, and the longest text in tokens."""


class Timed(Engine):
    """An engine that adds up the seconds it takes to write and to reload weights."""

    written = reloaded = 0.0

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write, as `Engine.load` will again, and load."""
        began = time.perf_counter()
        self._weights.write(tensors)
        ended = time.perf_counter()
        super().load(tensors)
        self.written += ended - began
        self.reloaded += time.perf_counter() - ended - (ended - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = pair_tokenizer()
    width = HEADS * HEAD_SIZE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=HEADS,
        max_position_embeddings=WINDOW,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    draw = random.Random(0)
    prompts = ["".join(draw.choices(LETTERS, k=PROMPT)) for _ in range(options.items)]
    asked = [request(prompt, ["never"], options.tokens) for prompt in prompts]
    engines: list[Timed] = []

    def launch(
        interpreter: Path, blueprint: Blueprint, tensors: Mapping[str, torch.Tensor]
    ) -> Timed:
        arguments = {**json.loads(blueprint.arguments), "tensor_parallel_size": options.devices}
        engines.append(
            Timed(interpreter, replace(blueprint, arguments=json.dumps(arguments)), tensors)
        )
        return engines[-1]

    with isolated():
        lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=options.batch_size,
            max_length=WINDOW,
        )
        generator = VllmGenerator(lm, None, launch)
        [engine] = engines
        print(json.dumps({"parameters": model.num_parameters(), **vars(options)}))
        for _ in range(options.repeats):
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
            generator.weights_changed()
            engine.written = engine.reloaded = 0.0
            began = time.perf_counter()
            texts = generator.generate(asked)
            ended = time.perf_counter()
            generator.generate(asked)
            again = time.perf_counter() - ended
            whole = ended - began
            found = {
                "written_s": engine.written,
                "reloaded_s": engine.reloaded,
                "whole_s": whole,
                "generated_again_s": again,
                "share": (engine.written + engine.reloaded) / whole,
            }
            print(json.dumps({name: round(value, 3) for name, value in found.items()}), flush=True)
        expected = StaticGenerator(lm).generate(asked)
        differing = sum(a != b for a, b in zip(texts, expected, strict=True))
        print(f"{differing} of {len(texts)} texts are not lm-eval's")
        engine.close()


if __name__ == "__main__":
    main()
