"""What happens around a vLLM engine: finding it, handing weights over, comparing, and ending."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from automerge.commands.doctor import _vllm
from automerge.errors import PreflightError
from automerge.evaluation.generation.asks import Ask
from automerge.evaluation.generation.table import GENERATORS
from automerge.evaluation.generation.vllm.engine import Blueprint, Engine, EngineFailed
from automerge.evaluation.generation.vllm.environment import MAKE, VARIABLE
from automerge.evaluation.generation.vllm.generator import VllmGenerator
from automerge.evaluation.generation.vllm.weights import SharedWeights, handed_over, layout
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.testing.generators import (
    ARCHITECTURES,
    PROMPTS,
    pair_tokenizer,
    plain_model,
    reference,
    request,
    tiny_model,
    wrapped,
)
from tests.command_line import REPOSITORY, surroundings
from tests.evaluation.stand_in_vllm import (
    ENDS,
    MUST_NOT_RELOAD,
    MUST_NOT_START,
    NO_MEMORY,
    RAISES,
    VERSION,
    stand_in,
)
from tests.processes import DEADLINE_S, ended, is_alive

A, B = (pair_tokenizer().convert_tokens_to_ids(text) for text in ("ab", "cd"))


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory) -> Path:
    return stand_in(tmp_path_factory.mktemp("vllm"))


@pytest.fixture
def named(interpreter, monkeypatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(interpreter))
    return interpreter


def even_model(token: int = A):
    """A model that calls every token equally likely, as the stand-in does."""
    model = plain_model()
    model.lm_head.weight.zero_()
    say(model, token)
    return model


def say(model, token: int) -> None:
    """Let the stand-in say a token from now on."""
    first = next(p for p in handed_over(model).values() if p.ndim == 1)
    first[0] = token


def asked(limit: int = 3, until: str = "never"):
    return [request(prompt, [until], limit) for prompt in PROMPTS]


@pytest.fixture
def made(named):
    """A generator over a model, of which engines are closed at the end."""
    engines = []

    def launch(*arguments):
        engines.append(Engine(*arguments))
        return engines[-1]

    def make(model):
        with isolated():
            return VllmGenerator(wrapped(model, 4), None, launch)

    make.engines = engines
    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shared_memory_holds_what_a_saved_model_does(architecture, tmp_path) -> None:
    """Its names, its split experts and its ties, in a file without a name."""
    model = tiny_model(architecture, 0, len(pair_tokenizer()))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    tensors = handed_over(model)
    shared = SharedWeights(layout(tensors))
    try:
        for scale in (1, 2):
            for parameter in model.parameters():
                parameter.mul_(scale)
            shared.write(handed_over(model))
            found = load_file(f"/proc/self/fd/{shared.fd}")
            assert found.keys() == saved.keys()
            assert all(torch.equal(found[name], scale * saved[name]) for name in saved)
        assert not list(Path("/dev/shm").glob("*automerge*"))
    finally:
        del found
        shared.close()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_handed_over_bit_for_bit(dtype) -> None:
    tensors = {
        "a.weight": torch.randn(3, 5).to(dtype),
        "b": torch.randn(1).to(dtype),
        "none": torch.empty(0, dtype=dtype),
        "turned": torch.randn(4, 2).to(dtype).T,
    }
    shared = SharedWeights(layout(tensors))
    shared.write(tensors)
    found = load_file(f"/proc/self/fd/{shared.fd}")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    del found
    shared.close()


def test_packed_weights_are_refused() -> None:
    with pytest.raises(TypeError, match=r"'packed' is torch\.float8"):
        layout({"packed": torch.zeros(2, dtype=torch.float8_e4m3fn)})


def refusal() -> str:
    with isolated(), pytest.raises(PreflightError) as refused:
        GENERATORS["vllm"](wrapped(plain_model(), 4), None)
    return str(refused.value)


def test_where_there_is_no_vllm_it_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert "AUTOMERGE_VLLM_PYTHON is not set" in refusal()
    assert "pip install vllm==" in refusal()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    assert "which is not a program" in refusal()
    monkeypatch.setenv(VARIABLE, "/bin/false")
    assert "is not a Python interpreter: exit status 1" in refusal()
    python = stand_in(tmp_path / "empty", has_vllm=False)
    monkeypatch.setenv(VARIABLE, str(python))
    assert f"{python} does not have vLLM; {python} -m pip install vllm==" in refusal()


def test_elsewhere_than_on_linux_it_says_so(named, monkeypatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert "on Linux only, not on Darwin; use evaluation.generator: auto" in refusal()


def test_doctor_says_what_there_is_and_what_is_missing(named, monkeypatch) -> None:
    [found] = _vllm()
    assert (found.state, found.found) == ("ok", f"{VERSION} of {named}")
    monkeypatch.delenv(VARIABLE)
    [found] = _vllm()
    assert (found.state, found.found) == ("without", f"{VARIABLE} is not set")
    assert found.advice == f"for evaluation.generator: vllm: {MAKE}"
    page = (REPOSITORY / "docs" / "generation.md").read_text("utf-8")
    assert f"{MAKE}\n" in page


def test_answers_are_those_of_the_weights_handed_over(made) -> None:
    model = even_model()
    generator = made(model)
    assert generator.chosen == f"vllm {VERSION}"
    assert generator.generate(asked()) == ["ababab"] * len(PROMPTS)
    say(model, B)
    assert generator.generate(asked()) == ["ababab"] * len(PROMPTS)
    generator.weights_changed()
    assert generator.generate(asked()) == ["cdcdcd"] * len(PROMPTS)
    assert generator.generate(asked(9, "dcd")) == ["c"] * len(PROMPTS)
    assert len(made.engines) == 1


def test_an_answer_that_is_long_enough_is_not_continued(made) -> None:
    made(even_model())
    [engine] = made.engines
    endless = Ask((1, 2), (), 10**9)
    found = engine.answer([endless, endless], (), 1.0, lambda n, answer: len(answer) > 3 + n)
    assert found == [[A] * 4, [A] * 5]
    assert engine.answer([Ask((1,), (), 2)], (), 1.0, lambda *_: False) == [[A, A]]


def test_an_engine_that_computes_something_else_is_refused(made) -> None:
    model = even_model()
    generator = made(model)
    generator.generate(asked())
    model.lm_head.weight.normal_(std=0.1)
    generator.weights_changed()
    with pytest.raises(PreflightError, match=r"other log-probabilities than transformers does, by"):
        generator.generate(asked())


def test_a_model_that_vllm_cannot_run_is_refused(made) -> None:
    with pytest.raises(
        PreflightError, match=r"9\.9\.9 cannot run this model, or reload it; use .*small"
    ):
        made(even_model(MUST_NOT_START))


def test_a_model_whose_weights_vllm_cannot_reload_is_refused(made) -> None:
    with pytest.raises(PreflightError, match=r"or reload it; use .*packed in another layout"):
        made(even_model(MUST_NOT_RELOAD))
    assert made.engines[0].process.returncode is not None


def test_quantised_weights_are_refused(made) -> None:
    model = even_model()
    model.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(PreflightError, match="the model's weights are quantised"):
        made(model)


@pytest.mark.parametrize(
    ("token", "error", "message"),
    [
        (RAISES, EngineFailed, "ValueError: the engine does not like this\n.*Traceback"),
        (NO_MEMORY, torch.OutOfMemoryError, "no more"),
        (ENDS, EngineFailed, "process ended \\(exit status 7\\)\narguments"),
    ],
)
def test_after_an_error_there_is_another_engine(made, token, error, message) -> None:
    model = even_model()
    generator = made(model)
    say(model, token)
    generator.weights_changed()
    with pytest.raises(error, match=f"(?s){message}"):
        generator.generate(asked())
    assert made.engines[0].process.returncode is not None
    say(model, B)
    generator.weights_changed()
    assert generator.generate(asked()) == ["cdcdcd"] * len(PROMPTS)
    assert len(made.engines) == 2


def test_an_engine_that_somebody_kills_is_one_error(made) -> None:
    generator = made(even_model())
    made.engines[0].process.kill()
    with pytest.raises(EngineFailed, match="process ended \\(SIGKILL\\)"):
        generator.generate(asked())
    assert generator.generate(asked()) == ["ababab"] * len(PROMPTS)


def test_a_model_with_other_layers_has_another_engine(made) -> None:
    model = even_model()
    generator = made(model)
    del model.model.layers[1]
    model.config.num_hidden_layers = 1
    generator.weights_changed()
    assert generator.generate(asked()) == ["ababab"] * len(PROMPTS)
    first, second = made.engines
    assert first.process.returncode == 0
    assert second.process.poll() is None


def test_what_is_not_greedy_is_lm_evals_own(made) -> None:
    model = even_model()
    generator = made(model)
    one = request(PROMPTS[0], ["never"], 3)
    one.args[1]["num_beams"] = 2
    assert generator.generate([one, *asked()]) == [
        *reference(model, [one]),
        *["ababab"] * len(PROMPTS),
    ]


def test_a_setting_that_only_transformers_follows_needs_no_engine(made) -> None:
    model = even_model()
    model.generation_config.no_repeat_ngram_size = 2
    generator = made(model)
    assert generator.chosen == "static: its generation_config.json sets no_repeat_ngram_size: 2"
    assert generator.generate(asked()) == reference(model, asked())
    assert not made.engines


def start(interpreter: Path, end: str, said: int) -> None:
    """Start an engine, write its process's id to a file descriptor, and end."""
    tensors = {"w": torch.ones(1000)}
    blueprint = Blueprint(json.dumps({"vocab_size": 9}), layout(tensors), "{}")
    engine = Engine(interpreter, blueprint, tensors)
    child = 0
    if end == "held" and not (child := os.fork()):
        time.sleep(2 * DEADLINE_S)
        os._exit(0)
    os.write(said, json.dumps([engine.process.pid, child]).encode())
    if end == "error":
        raise ValueError("an error")
    if end != "normal":
        time.sleep(2 * DEADLINE_S)


def nothing_is_left(starter: int, engine: int, child: int, folder: Path) -> None:
    assert ended(engine)
    if child:
        assert is_alive(child)
        os.kill(child, signal.SIGKILL)
    assert ended(starter)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("end", ["killed", "held"])
def test_nothing_is_left_of_an_engine_whose_starter_is_killed(
    end, interpreter, tmp_path, monkeypatch
) -> None:
    """`held`: a process that the starter forked holds its ends of the pipes open."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source, target = os.pipe()
    starter = os.fork()
    if not starter:
        start(interpreter, end, target)
        os._exit(0)
    engine, child = json.loads(os.read(source, 100))
    assert is_alive(engine)
    assert len(list(tmp_path.iterdir())) == 1
    os.kill(starter, signal.SIGKILL)
    os.waitpid(starter, 0)
    nothing_is_left(starter, engine, child, tmp_path)
    assert not list(Path("/dev/shm").glob("*automerge*"))
    os.close(source)
    os.close(target)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["normal", "error"])
def test_nothing_is_left_of_an_engine_whose_starter_ends(end, interpreter, tmp_path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys, pathlib; from tests.evaluation.test_vllm import start;"
            "start(pathlib.Path(sys.argv[1]), sys.argv[2], 1)",
            *(str(interpreter), end),
        ],
        env=surroundings(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == (end == "error"), ran.stderr
    engine, _ = json.loads(ran.stdout)
    nothing_is_left(0, engine, 0, tmp_path)


def test_an_engine_is_told_what_the_worker_has_room_for(named) -> None:
    """Keys and values for every row of the longest answer, or fewer, but for one at least."""
    found = {}
    blueprints: list[Blueprint] = []

    def launch(_, blueprint, tensors):
        blueprints.append(blueprint)
        return SimpleNamespace(load=lambda tensors: None)

    with isolated():
        for room in (None, 100_000, 1):
            VllmGenerator(wrapped(even_model(), 4), room, launch)
            found[room] = json.loads(blueprints[-1].arguments)
    block = 32 * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, their size, bytes
    one = 4 * block
    assert found[None]["kv_cache_memory_bytes"] == 4 * one + block
    assert found[100_000]["kv_cache_memory_bytes"] == 100_000 + block
    assert found[1]["kv_cache_memory_bytes"] == one + block
    assert found[1]["max_num_seqs"] == 4
    assert found[1]["max_model_len"] == 96
    assert found[1]["dtype"] == "float32"
    assert found[1]["tensor_parallel_size"] == 1
