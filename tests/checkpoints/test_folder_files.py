"""A merged model has every file of its base's folder but weights and what is stale."""

from __future__ import annotations

import json
import os
from pathlib import PurePosixPath

import pytest

from automerge.checkpoints.folder import files as folder_files
from automerge.checkpoints.folder.files import carried, copy_carried, open_file
from automerge.checkpoints.folder.stale import is_stale
from automerge.errors import PreflightError

KEPT = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("chat_template.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"),
    *("tokenizer.json", "tokenizer.model", "tekken.json", "sentencepiece.bpe.model", "spm.model"),
    *("source.spm", "target.spm", "qwen.tiktoken", "vocab.txt", "merges.txt", "normalizer.json"),
    *("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"),
    *("sentence_bert_config.json", "generation_config.json", "LICENSE", "NOTICE", "USE_POLICY.md"),
    *("speaker_embeddings/voice.npy", "never_seen.xyz", "some/deeper/folder/file.json"),
    "2_Dense/model.safetensors",
)
DROPPED = (
    *("config.json", "model.safetensors", "model-00001-of-00002.safetensors"),
    *("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("model.pt", "model.pth", "x.ckpt", "x.gguf", "tf_model.h5", "flax_model.msgpack"),
    *("rust_model.ot", "onnx/model.onnx", "onnx/config.json", "model.onnx_data"),
    *("consolidated.00.pth", "consolidated.safetensors", "original/tokenizer.model", "params.json"),
    *("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "training_args.bin"),
    *("checkpoint-500/tokenizer.json", "global_step5/x.json", "runs/events.out.tfevents.1"),
    *("events.out.tfevents.1", "all_results.json", "latest", "wandb/run/files/config.yaml"),
    *("quantize_config.json", "quant_config.json", "adapter_config.json", "adapter_model.bin"),
    *("README.md", "recipe.yaml", "mergekit_config.yml", "modeling_x.py", "zero_to_fp32.py"),
    *(".git/config", ".gitattributes", ".env", ".cache/huggingface/x", "3_Other/model.safetensors"),
)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "model"
    for name in (*KEPT, *DROPPED):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    (root / "modules.json").write_text(json.dumps(modules))
    return root


def test_everything_is_carried_over_but_weights_and_what_is_stale(folder, tmp_path):
    found = carried(folder)
    assert set(found.files) == set(KEPT)
    copy_carried(found, tmp_path / "out")
    for name in KEPT:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert [r for r in found.remarks if "2_Dense/model.safetensors is kept as it is" in r]


def test_a_configuration_that_is_carried_names_no_code(folder, tmp_path):
    content = {"tokenizer_class": "LlamaTokenizer", "auto_map": {"AutoTokenizer": ["x.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    copy_carried(carried(folder), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written == {"tokenizer_class": "LlamaTokenizer"}


@pytest.mark.parametrize("name", ["Model.Safetensors", "README.MD", "Checkpoint-1/x.json"])
def test_letters_of_any_size_are_stale(name):
    assert is_stale(PurePosixPath(name))


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "chat_template.jinja"])
def test_a_tokenizer_file_linked_to_a_secret_is_refused(folder, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text("password")
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(PreflightError, match=f"{name}: a link out of the folder"):
        carried(folder)


def test_other_links_out_are_left_out_and_said(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("password")
    (folder / "notes.txt").symlink_to(secret)
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "itself").symlink_to(folder / "itself")
    found = carried(folder)
    assert set(found.files) == set(KEPT)
    assert {"notes.txt", "elsewhere", "itself"} <= {
        word.rstrip(":").rpartition("/")[2] for remark in found.remarks for word in remark.split()
    }


def test_links_within_the_folder_and_into_a_caches_blobs_are_followed(tmp_path):
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "0123"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (cache / "blobs" / "abcd").write_text("tokens")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/abcd")
    (snapshot / "same.json").symlink_to("tokenizer.json")
    copy_carried(carried(snapshot), tmp_path / "out")
    for name in ("tokenizer.json", "same.json"):
        assert (tmp_path / "out" / name).read_text() == "tokens"
        assert not (tmp_path / "out" / name).is_symlink()


def test_a_pipe_is_refused_and_nobody_waits_for_it(folder):
    (folder / "vocab.txt").unlink()
    os.mkfifo(folder / "vocab.txt")
    os.mkfifo(folder / "pipe")
    with pytest.raises(PreflightError, match=r"vocab\.txt: not a regular file"):
        carried(folder)
    with pytest.raises(PreflightError, match="not a regular file"):
        open_file(folder / "pipe")
    (folder / "vocab.txt").unlink()
    assert "pipe" not in carried(folder).files


def test_folders_without_end_and_files_without_end_are_cut_and_said(folder, monkeypatch):
    deep = folder / "a/b/c/d/e"
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    monkeypatch.setattr(folder_files, "MAX_BYTES", 100)
    (folder / "large.txt").write_text("x" * 101)
    found = carried(folder)
    assert any("more than 3 folders deep" in remark for remark in found.remarks)
    assert any("large.txt: 101 bytes; at most 100 are read" in remark for remark in found.remarks)
    assert not {"large.txt", "a/b/c/d/e/file"} & found.files.keys()
    monkeypatch.setattr(folder_files, "MAX_FILES", 5)
    found = carried(folder)
    assert len(found.files) == 5
    assert any("more than 5 files" in remark for remark in found.remarks)
    monkeypatch.setattr(folder_files, "MAX_FILES", 100)
    (folder / "tokenizer.json").write_text("x" * 101)
    with pytest.raises(PreflightError, match=r"tokenizer\.json: 101 bytes"):
        carried(folder)
