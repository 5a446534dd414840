"""AdapterSoup: which texts are like a new one, and the recipe of their models' average."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from automerge import cli, demo
from automerge.config.recipe_file import read_recipe
from automerge.inspection.likeness import embeddings, likeness, read_passages
from tests.command_line import REPOSITORY

PAGE = REPOSITORY / "docs/adapters.md"
MIDDLE = 3
"""Of the states of the demo's six layers, after the embedding's."""
KINDS = {"maths": "clock", "code": "sorting", "chat": "facts"}
"""What the documented commands' models stand for here: tasks of the demo."""


def naive(known: dict[str, np.ndarray], new: np.ndarray) -> dict[str, float]:
    common = np.mean([row for rows in known.values() for row in rows], axis=0)
    found = {}
    for name, rows in known.items():
        cosines = [
            (x - common) @ (y - common) / np.linalg.norm(x - common) / np.linalg.norm(y - common)
            for x in rows
            for y in new
        ]
        found[name] = float(np.mean(cosines))
    return found


def test_likeness_is_the_mean_cosine_over_all_pairs():
    draw = np.random.default_rng(0)
    known = {name: draw.normal(1, 1, (n, 6)) for name, n in (("a", 3), ("b", 5))}
    new = draw.normal(1, 1, (4, 6))
    ours = likeness({n: torch.from_numpy(x) for n, x in known.items()}, torch.from_numpy(new))
    assert ours == pytest.approx(naive(known, new))


def test_passages_are_read_as_transformers_reads_them():
    folder = demo.folder() / "base"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["ten past four", "sort: 3 1 2"]
    found = embeddings(model, tokenizer, texts)
    for row, text in zip(found, texts, strict=True):
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            states = model.model(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(row, states[MIDDLE][0, -1].double())


def test_at_most_a_hundred_passages_are_read_evenly(tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{n} ".ljust(598, "x") for n in range(300)))
    read = read_passages(text)
    assert len(read) == 100
    assert [int(passage.split()[0]) for passage in (read[0], read[50], read[-1])] == [0, 150, 297]


def run(line: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line.removeprefix("automerge ")))
    return int(ended.value.code or 0)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documented commands name: the demo's base, an adapter and a text of
    each kind, and a new text of one of the kinds."""
    monkeypatch.chdir(tmp_path)
    Path("BASE").symlink_to(demo.folder() / "base")
    for seed, (name, task) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        made = get_peft_model(AutoModelForCausalLM.from_pretrained("BASE"), settings)
        for own, parameter in made.named_parameters():
            if "lora_B" in own:
                torch.nn.init.normal_(parameter, std=0.02)
        made.save_pretrained(name)
        lines = (demo.folder() / f"tasks/demo_{task}.jsonl").read_text().splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines[:600]]
        Path(f"{name}.txt").write_text("\n".join(prompts[:300]))
        if name == "code":
            Path("new.txt").write_text("\n".join(prompts[300:]))
    return tmp_path


def test_the_documented_commands_average_the_models_of_the_nearest_texts(pool, capsys):
    section = PAGE.read_text(encoding="utf-8").split("## A soup for a text")[1].split("\n## ")[0]
    [block] = re.findall(r"^```text\n(.*?)^```", section, re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines():
        assert run(line) == 0
    said = capsys.readouterr().out.splitlines()
    order = [line.split()[1] for line in said if line.strip()[0] in "-01"]
    assert order[0] == "code"
    recipe = read_recipe(pool / "soup.yaml").recipe
    assert [(s.name, s.knobs["weight"].plain()) for s in recipe.sources] == [
        (name, 0.5) for name in order[:2]
    ]
    assert (pool / "soup/adapter_model.safetensors").is_file()


def test_every_fault_is_named_at_once(pool, capsys):
    line = "soup BASE maths=./maths code=./code --text maths.txt --text cod=code.txt --like no.txt"
    assert run(f"{line} --count 3 --out soup.yaml") == 2
    said = " ".join(capsys.readouterr().err.split())
    for fault in (
        "--text maths.txt: write NAME=maths.txt, of which model",
        "--text cod=…: there is no model 'cod'",
        "every model needs a text; add --text maths=PATH",
        "--count: expected a number from 1 to 2, that of the models; got 3",
        "--like no.txt: there is no such file or folder",
    ):
        assert fault in said, said
    assert not (pool / "soup.yaml").exists()


def test_a_recipe_is_not_overwritten(pool, capsys):
    (pool / "soup.yaml").write_text("mine")
    line = "soup BASE maths=./maths --text maths=maths.txt --like new.txt --count 1"
    assert run(f"{line} --out soup.yaml") == 3
    assert "soup.yaml exists; name another file with --out" in capsys.readouterr().err
    assert (pool / "soup.yaml").read_text() == "mine"
