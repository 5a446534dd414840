"""Studies of models that are no decoders: what they are refused, and whole searches."""

from __future__ import annotations

import io
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from rich.console import Console

import automerge
from automerge.checkpoints.folder.files import is_tokenizer_file
from automerge.commands.chat import NOBODY, Chat, chat
from automerge.errors import FaultyInput, PreflightError
from automerge.extensions import modules
from automerge.report.commands import score_commands
from automerge.store.store import Store
from automerge.trial import Measured
from tests.command_line import automerge as run_command
from tests.evaluation.toys import make_tokenizer, phrase
from tests.kinds import (
    LABELS,
    MODULE,
    PAGE,
    STUDY,
    make_classifier,
    neighbour,
    write_classifiers,
    write_encoder_decoders,
)
from tests.zoo import save, write_tasks, write_zoo


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifiers")
    config = write_classifiers(folder)
    write_tasks(folder / "tasks")
    save(make_classifier(("bad", "good")), folder / "two")
    (folder / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 .\n" * 400)
    return config


@pytest.fixture(scope="module")
def encoder_decoders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder_decoders")
    config = write_encoder_decoders(folder)
    (folder / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 .\n" * 400)
    return config


@pytest.fixture(autouse=True)
def _no_modules_are_left():
    yield
    for name in tuple(modules._installed):
        modules._remove(name)


DIVERGENCE = ("tasks: [", "properties: [{kl_to_base: ./text.txt}]\ntasks: [")
T5 = "T5ForConditionalGeneration"


@pytest.mark.parametrize(
    ("zoo", "old", "new", "place", "says"),
    [
        (
            "classifiers",
            "tasks: [",
            "include_path: ./tasks\ntasks: [choose, ",
            "11:9",
            "task 'choose': lm-eval scores language models, and BertForSequenceClassification is "
            "none: score it with a function of yours",
        ),
        ("classifiers", *DIVERGENCE, "10:13", "has no such output head: use distance_to_base"),
        ("classifiers", "./right", "./two", "3:31", "has 2 label(s), the base 3 ("),
        ("encoder_decoders", *DIVERGENCE, "10:13", f"(a decoder), and {T5} has an encoder"),
        ("encoder_decoders", "16", "16, generator: vllm", "10:9", f"cannot generate with {T5}"),
        (
            "encoder_decoders",
            "knots: 2}",
            "knots: 2}, layers: {drop: 1}",
            "4:79",
            "other layers need one stack of them; the base has decoder.block (2), encoder.block",
        ),
    ],
)
def test_what_a_kind_of_model_cannot_do_is_refused_with_its_place(
    request, tmp_path, zoo: str, old: str, new: str, place: str, says: str
) -> None:
    config: Path = request.getfixturevalue(zoo)
    text = config.read_text()
    assert old in text
    wrong = config.with_name("wrong.yaml")
    wrong.write_text(text.replace(old, new).replace("name: tiny\n", f"out: {tmp_path / 'out'}\n"))
    with pytest.raises(FaultyInput) as refused:
        automerge.search(wrong)
    assert refused.value.exit_code == 3
    (found, *_) = map(str, refused.value.faults)
    assert f"wrong.yaml:{place}: " in found
    assert says in found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zoo", ["encoder_decoders", "decoders"])
def test_a_language_model_without_a_tokenizer_is_refused(request, tmp_path, zoo: str) -> None:
    if zoo == "decoders":
        config = write_zoo(tmp_path / "zoo")
    else:
        shutil.copytree(request.getfixturevalue(zoo).parent, tmp_path / "zoo")
        config = tmp_path / "zoo" / "automerge.yaml"
    for name in ("base", "left", "right"):
        for path in config.with_name(name).glob("*"):
            if is_tokenizer_file(path.name):
                path.unlink()
    with pytest.raises(PreflightError) as refused:
        automerge.search(config)
    (fault,) = map(str, refused.value.faults)
    assert f"{tmp_path / 'zoo' / 'base'} has no tokenizer, so no text can be scored: save" in fault
    assert not (tmp_path / "zoo" / "runs").exists()


def test_an_evaluator_from_outside_says_which_kinds_it_takes(classifiers: Path, tmp_path) -> None:
    zoo = classifiers.parent
    (lines,) = re.findall(
        r"```python\n(\"\"\"The mean log.*?)```", PAGE.read_text("utf-8"), re.DOTALL
    )
    (zoo / "my_lines.py").write_text(
        f"{lines}\n\nfrom automerge.evaluation.base import TaskFault, TasksRefused\n\n\n"
        "def on(self, model, kind):\n"
        "    if kind == 'decoder':\n"
        "        return self\n"
        "    raise TasksRefused([TaskFault(0, 'task', f'no lines for {model}: {kind}')])\n\n\n"
        "OpenLines.on = on\n"
    )
    task = '{evaluator: "my_lines:Lines", task: fluency, items: ./text.txt}'
    text = classifiers.read_text().replace("tasks: [", f"tasks: [{task}, ")
    text = text.replace("[my_labels]", "[my_labels, my_lines]")
    wrong = classifiers.with_name("wrong.yaml")
    wrong.write_text(text.replace("name: tiny\n", f"out: {tmp_path / 'out'}\n"))
    with pytest.raises(FaultyInput) as refused:
        automerge.search(wrong)
    (fault,) = map(str, refused.value.faults)
    assert re.search(r"wrong.yaml:10:\d+: no lines for BertForSequenceClassification: other", fault)


def test_the_documented_function_scores_a_classifier_as_its_forward_pass_does():
    found: dict[str, Any] = {}
    exec(MODULE, found)
    model, tokenizer = make_classifier(), make_tokenizer()
    rng = random.Random(4)
    items = [{"text": phrase(rng, 1, 20), "label": rng.choice(LABELS)} for _ in range(40)]
    scores = found["accuracy"](model, tokenizer, items)
    inputs = [tokenizer(item["text"], return_tensors="pt") for item in items]
    likeliest = [LABELS[int(model(**own).logits.argmax())] for own in inputs]
    assert scores == [label == item["label"] for label, item in zip(likeliest, items, strict=True)]
    assert 0 < sum(scores) < len(scores)


def of_test(run: Path) -> tuple[Path, dict[str, dict[tuple[str, int], float]]]:
    """The exported model's folder, and its scores of test items by objective."""
    (model,) = (run / "models").iterdir()
    with Store(run, write=False) as store:
        (number,) = (t.number for t in store.trials() if t.name == model.name)
        outcome = store.outcomes("test")[number]
    assert isinstance(outcome, Measured)
    return model, {
        objective: dict(zip(scores.items, scores.values, strict=True))
        for objective, scores in outcome.scores.items()
    }


def command(run: Path, model: Path) -> list[str]:
    """The only command that reproduces a model's test scores."""
    (line,) = score_commands(automerge.load_study(run).result, f"models/{model.name}").splitlines()
    return shlex.split(line)


def said(run: Path, line: str) -> str:
    """What the best merge of a study answers."""
    shown = io.StringIO()
    chat(Chat(run, beside=NOBODY, max_tokens=20), Console(file=shown, width=500), iter([line]))
    return shown.getvalue()


@pytest.mark.slow
def test_classifiers_are_searched_and_an_export_gives_the_scores_of_its_own_forward_pass(
    classifiers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = classifiers.parent
    run = zoo / "runs" / "tiny"
    monkeypatch.chdir(zoo)
    local = classifiers.with_name("local.yaml")
    local.write_text(classifiers.read_text() + "executor: local\n")
    automerge.search(local)
    model, scores = of_test(run)
    own = hf.AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    items = [json.loads(line) for line in (zoo / "items.jsonl").read_text().splitlines()]
    for (_, i), score in scores["labels"].items():
        logits = own(**tokenizer(items[i]["text"], return_tensors="pt")).logits
        assert score == (own.config.id2label[int(logits.argmax())] == items[i]["label"])
    assert 0 < sum(scores["labels"].values()) < len(scores["labels"])
    card = (model / "README.md").read_text()
    assert "model = BertForSequenceClassification.from_pretrained(" in card
    assert "type: text-classification" in card
    again = run_command(run, *command(run, model)[1:], "--json")
    assert again.returncode == 0, again.stderr
    theirs = {(row["task"], row["item"]): row["score"] for row in json.loads(again.stdout)}
    assert theirs == scores["labels"]
    with pytest.raises(PreflightError, match="BertForSequenceClassification, which does not write"):
        said(run, "w1")
    local.write_text(local.read_text().replace("budget: 6", "budget: 7"))
    assert len(automerge.search(local).result.trials) == 7


@pytest.mark.slow
def test_encoder_decoders_are_searched_and_lm_eval_scores_an_export_the_same(
    encoder_decoders: Path,
) -> None:
    zoo = encoder_decoders.parent
    done = run_command(zoo, "search")  # with Ray
    assert done.returncode == 0, done.stderr
    assert "slopes      none: no usable loss for choose, say" in done.stdout
    run = zoo / "runs" / "tiny"
    model, scores = of_test(run)
    assert f"model = {T5}.from_pretrained(" in (model / "README.md").read_text()
    lm_eval = str(Path(sys.executable).with_name("lm_eval"))
    subprocess.run([lm_eval, *command(run, model)[1:]], cwd=run, check=True, capture_output=True)
    logged = {
        (objective, row["doc_id"]): row["acc" if objective == "choose" else "exact_match"]
        for objective in ("choose", "say")
        for path in (run / "lm_eval_output").rglob(f"samples_{objective}_*.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    }
    assert logged == {
        (objective, i): score for objective in scores for (_, i), score in scores[objective].items()
    }
    own = hf.AutoModelForSeq2SeqLM.from_pretrained(model)
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    asked = [{"role": "user", "content": "w1 w2"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    (answer,) = own.generate(**inputs, max_new_tokens=20)
    text = tokenizer.decode(answer, skip_special_tokens=True).strip()
    assert text
    assert said(run, "w1 w2") == f"{model.name}: {text}\n"


@pytest.mark.slow
def test_a_model_without_a_tokenizer_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    base = hf.ViTForImageClassification(config).eval()
    base.save_pretrained(tmp_path / "base")
    for seed, name in enumerate(("left", "right")):
        neighbour(base, seed).save_pretrained(tmp_path / name)
    items = (json.dumps({"seed": seed}) + "\n" for seed in range(64))
    (tmp_path / "items.jsonl").write_text("".join(items))
    (tmp_path / "my_images.py").write_text(
        "import torch\n\n"
        "def first(model, tokenizer, items):\n"
        "    assert tokenizer is None\n"
        "    seeds = [torch.Generator().manual_seed(item['seed']) for item in items]\n"
        "    images = torch.stack([torch.randn(3, 16, 16, generator=seed) for seed in seeds])\n"
        "    return model(pixel_values=images).logits[:, 0].tolist()\n"
    )
    task = '{python: "my_images:first", items: ./items.jsonl}'
    study = f"{STUDY}executor: local\nextensions: [my_images]\ntasks: [{task}]\n"
    (tmp_path / "automerge.yaml").write_text(study)
    monkeypatch.chdir(tmp_path)
    automerge.search(tmp_path / "automerge.yaml")
    with Store(tmp_path / "runs" / "tiny", write=False) as store:
        (number,) = (t.number for t in store.trials() if t.name == "uniform")
        outcome = store.outcomes("test")[number]
    assert isinstance(outcome, Measured)
    scores = outcome.scores["first"]
    with torch.no_grad():
        sources = [neighbour(base, seed).parameters() for seed in range(2)]
        for parameter, left, right in zip(base.parameters(), *sources, strict=True):
            parameter.copy_((left + right) / 2)
        for (_, i), score in zip(scores.items, scores.values, strict=True):
            image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i))
            assert score == pytest.approx(base(pixel_values=image).logits[0, 0].item(), abs=1e-4)
