"""A folder without safetensors is called what it is, with what to do."""

from __future__ import annotations

import json

import pytest

from automerge.checkpoints import open_checkpoint
from automerge.errors import PreflightError
from tests.checkpoints.models import llama, save

FOUND = {
    "model-q4_k_m.gguf": "GGUF weights, which are not read",
    "consolidated.safetensors": "under Mistral's own names",
    "model.fp16.safetensors": "rename the file to model.safetensors",
    "pytorch_model_fsdp_0/__0_0.distcp": "`accelerate merge-weights FOLDER OUT`",
    "global_step500/mp_rank_00_model_states.pt": "`python zero_to_fp32.py . OUT",
    "tf_model.h5": "TensorFlow weights",
    "flax_model.msgpack": "Flax weights",
    "onnx/model.onnx": "ONNX weights",
    "pytorch_model.bin": "only pickle weights (pytorch_model.bin)",
    "consolidated.00.pth": "only pickle weights (consolidated.00.pth)",
}


@pytest.mark.parametrize("config", [True, False], ids=["with config.json", "without"])
@pytest.mark.parametrize("name", FOUND)
def test_other_weights_are_called_what_they_are(name, config, tmp_path):
    folder = save(llama(), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for left in ("optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.pt"):
        (folder / left).write_bytes(b"x")  # of the training, and no model's weights
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    if not config:
        (folder / "config.json").unlink()
    with pytest.raises(PreflightError) as refused:
        open_checkpoint(folder)
    [fault] = refused.value.faults
    assert FOUND[name] in fault.message
    assert ("no config.json" in fault.message) != config


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    with pytest.raises(PreflightError, match="the folder is empty"):
        open_checkpoint(tmp_path)


def test_only_leftovers_of_a_training_are_no_pickle_to_convert(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(PreflightError, match="is it a model folder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pointer_of_git_lfs_is_called_one(name, tmp_path):
    folder = save(llama(), tmp_path / "model")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n")
    with pytest.raises(PreflightError, match="git lfs pull"):
        open_checkpoint(folder)
