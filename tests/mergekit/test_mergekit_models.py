"""Models of mergekit's files are found, counted and given a template as mergekit does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from rich.console import Console

from automerge.commands.merge import merge_file
from automerge.config.recipe_file import read_recipe
from automerge.errors import ConfigError
from automerge.files.yaml_file import parse_yaml
from automerge.mergekit import parse_mergekit
from automerge.mergekit.models import _layers_of
from tests.checkpoints.models import llama, save
from tests.checkpoints.vocabularies import bpe, write

LINEAR = """
merge_method: linear
models:
- {model: ./a, parameters: {weight: 0.5}}
- {model: sub/b, parameters: {weight: 0.5}}
"""


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def references(text: str, folder: Path) -> list[str]:
    return sorted(parse_mergekit(parse_yaml(text, "m.yaml"), folder).models.values())


def test_relative_paths_are_mergekits_then_the_files(tmp_path, monkeypatch):
    config = pytest.importorskip("mergekit.config")
    here = folders(tmp_path / "here", "a")
    there = folders(tmp_path / "there", "a", "sub/b")
    monkeypatch.chdir(here)
    assert references(LINEAR, there) == [str(here / "a"), str(there / "sub/b")]
    theirs = config.MergeConfiguration.model_validate(parse_yaml(LINEAR, "m.yaml").data)
    assert Path(theirs.models[0].model.local_path()).resolve() == here / "a"
    notes = parse_mergekit(parse_yaml(LINEAR, "m.yaml"), there).notes
    assert any(f"./a is {here}/a, relative to the working directory" in note for note in notes)
    assert any(f"not {there}/a" in note for note in notes)


def test_a_missing_folder_says_where_it_was_looked_for(tmp_path, monkeypatch):
    here, there = folders(tmp_path / "here", "sub/b"), folders(tmp_path / "there", "x")
    monkeypatch.chdir(here)
    with pytest.raises(ConfigError, match=f"no such folder: {here}/a nor {there}/a"):
        references(LINEAR, there)


SPELLINGS = ("./base", "base", "base/", "./x/../base", "{root}/base", "{root}/base/", "link")


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_one_base_may_be_spelt_in_two_ways(spelled, tmp_path, monkeypatch):
    folders(tmp_path, "base", "x", "adapter", "fine")
    (tmp_path / "link").symlink_to("base")
    monkeypatch.chdir(tmp_path)
    text = f"""
merge_method: task_arithmetic
base_model: ./base
models:
- model: {spelled.format(root=tmp_path)}
- {{model: "{spelled.format(root=tmp_path)}+adapter", parameters: {{weight: 1}}}}
- {{model: fine, parameters: {{weight: 1}}}}
tokenizer_source: {spelled.format(root=tmp_path)}
"""
    found = parse_mergekit(parse_yaml(text, "m.yaml"), tmp_path)
    assert set(found.recipe.models) == {"base", "adapter", "fine"}
    assert found.recipe.vocabulary.tokenizer == "base"


CONFIGS = {
    "llama": transformers.LlamaConfig(num_hidden_layers=7),
    "gpt2": transformers.GPT2Config(n_layer=7),
    "mpt": transformers.MptConfig(n_layers=7),
    "bloom": transformers.BloomConfig(n_layer=7),
    "gemma3": transformers.Gemma3Config(text_config={"num_hidden_layers": 7}),
    "qwen2_vl": transformers.Qwen2VLConfig(text_config={"num_hidden_layers": 7}),
    "llava": transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(num_hidden_layers=7).to_dict()
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_layers_are_those_the_configuration_says(kind):
    written = json.loads(CONFIGS[kind].to_json_string())
    assert _layers_of(written) == 7 == CONFIGS[kind].get_text_config().num_hidden_layers


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
def test_layers_that_are_left_out_are_the_classes_default(kind):
    config = type(CONFIGS[kind])()
    assert _layers_of({"model_type": kind}) == config.get_text_config().num_hidden_layers


TEMPLATES = ("{{ messages }} of one, the longer one", "{{ messages }} of two")


def test_the_template_of_most_models_is_mergekits(tmp_path, monkeypatch):
    merge = pytest.importorskip("mergekit.merge")
    config = pytest.importorskip("mergekit.config")
    for i, name in enumerate("abc"):
        write(tmp_path / name, bpe(300), seed=i, template=TEMPLATES[i > 0])
    rows = "\n".join(f"- {{model: {n}, parameters: {{weight: 0.5}}}}" for n in "abc")
    text = f"merge_method: linear\nmodels:\n{rows}\ndtype: float32\nchat_template: auto\n"
    (tmp_path / "m.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    merge_file(tmp_path / "m.yml", tmp_path / "out", Console(quiet=True))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    theirs = config.MergeConfiguration.model_validate(parse_yaml(text, "m.yaml").data)
    merge._set_chat_template(tokenizer, theirs)
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert ours == tokenizer.chat_template == TEMPLATES[1]
    again = read_recipe(tmp_path / "out" / "recipe.yaml")
    assert again.recipe.vocabulary.chat_template == "auto"


def test_a_template_that_is_written_out_is_the_results(tmp_path, monkeypatch):
    for i, name in enumerate("ab"):
        write(tmp_path / name, bpe(300), seed=i, template=TEMPLATES[0])
    text = (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n"
        "- {model: b, parameters: {weight: 1}}\nchat_template: '{{ messages }} mine'\n"
    )
    (tmp_path / "m.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    merge_file(tmp_path / "m.yml", tmp_path / "out", Console(quiet=True))
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found.chat_template == "{{ messages }} mine"


def test_a_file_is_merged_from_any_working_directory(tmp_path, monkeypatch):
    folder = tmp_path / "files"
    for name in ("a", "sub/b"):
        save(llama(), folder / name)
    (folder / "m.yml").write_text(LINEAR)
    monkeypatch.chdir(tmp_path)
    merge_file(Path("files/m.yml"), Path("out"), Console(quiet=True))
    assert (tmp_path / "out" / "model.safetensors").exists()
