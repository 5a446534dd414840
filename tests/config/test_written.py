"""The YAML that a run folder keeps means the study that was run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from automerge.config import load_config
from automerge.config.resume import differences
from automerge.config.written import FILE, written
from automerge.errors import ConfigError
from automerge.files.known import remember
from automerge.files.yaml_file import load_yaml
from tests.config.test_schema import accepts

STUDY = """
name: mine
base: ./base
models: {maths: ./maths, far: ./far, hub: org/name@v1, some: "noise:rank=2,seed=1,scale=0.01"}
tasks:
- {task: gsm8k, metric: "exact_match,strict-match", num_fewshot: 2, goal: false}
- arc_easy:acc_norm
- {task: code, split: {test: test}, gen_kwargs: {max_gen_toks: 5}, direction: minimize}
include_path: ./tasks
properties: [parameters, {kl_to_base: ./text.txt}]
align: {far: git_rebasin, hub: rotation_fusion}
evidence: {text: {maths: ./text.txt, far: ./text.txt, hub: ./text.txt}, tokens: 100}
recipes: [./own.yaml]
warm_start: ./earlier
search: {methods: [task_arithmetic, ties], depth: {groups: 2}, components: [attention, [mlp, norm]],
  weight: [0, 1.5], density: 0.5, layers: {drop: 1}}
constraints: ["gsm8k >= best_parent - 0.01"]
max_time: 8h
seed: 7
evaluation: {items_per_candidate: full, dtype: bfloat16}
split: {search: 0.4, select: 0.3, test: 0.3}
"""
RECIPE = "method: task_arithmetic\nbase: base\nsources: {maths: {weight: 0.5}}\n"

BY_GROUP = (
    "search: {methods: {attention: [ties, linear], other: task_arithmetic}, depth: per_layer}"
)


@pytest.mark.parametrize("search", ["", BY_GROUP], ids=["one for all", "by group"])
def test_what_is_written_is_read_back_as_the_same_study(tmp_path: Path, search: str) -> None:
    for folder in ("base", "maths", "far", "tasks", "earlier"):
        (tmp_path / folder).mkdir()
    (tmp_path / "far" / "config.json").write_text("{}")
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "own.yaml").write_text(RECIPE)
    text = re.sub(r"search: {methods.*?}}", search, STUDY, flags=re.DOTALL) if search else STUDY
    (tmp_path / "study.yaml").write_text(text)
    config = load_config(tmp_path / "study.yaml")
    run = tmp_path / "runs" / "mine"
    (run / "recipes").mkdir(parents=True)
    texts = written(config, run, {})
    assert str(tmp_path) not in "".join(texts.values())
    for name, text in texts.items():
        (run / name).write_text(text)
    assert accepts(load_yaml(run / FILE).data)
    again = load_config(run / FILE)
    assert differences(config.shared(run).to_plain(), again.shared(run)) == []
    assert (again.base, again.out) == (config.base, str(run))
    assert again == config.model_copy(update={"out": str(run)})


def test_a_model_that_is_not_near_is_named_by_its_content(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Nothing is near a run folder in a home whose parents hold everything else."""
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "me"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for folder in ("base", "maths", "homes/me/run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "maths" / "config.json").write_text("{}")
    plain = {"base": "base", "models": {"maths": "maths"}, "tasks": ["gsm8k"], "name": "far"}
    monkeypatch.chdir(tmp_path)
    config = load_config(plain)
    run = tmp_path / "homes" / "me" / "run"
    digests = {"base": "0" * 64, "maths": "1" * 64}
    for name, digest in digests.items():
        remember(tmp_path / name, digest)
    [text] = written(config, run, digests).values()
    assert f"local:maths@{digests['maths']}" in text
    (run / FILE).write_text(text)
    again = load_config(run / FILE)
    assert again.references == config.references
    (tmp_path / "maths" / "config.json").write_text("{ }")
    with pytest.raises(ConfigError, match="does not know where the model 'maths'"):
        load_config(run / FILE)
