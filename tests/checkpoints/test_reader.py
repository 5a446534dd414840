"""Folders that hold a model, and folders that pretend to."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from automerge.checkpoints import SafetensorsCheckpoint, open_checkpoint
from automerge.checkpoints.folder.formats import INDEX
from automerge.errors import PreflightError
from tests.checkpoints.models import gpt2, llama, save


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    torch.manual_seed(0)
    return save(llama(), tmp_path_factory.mktemp("original") / "model", shard="8KB")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def faults(folder) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        SafetensorsCheckpoint(folder)
    return [fault.message for fault in caught.value.faults]


def edit_index(folder, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("shard", ["5GB", "8KB"])
@pytest.mark.parametrize("tied", [False, True])
def test_all_tensors_of_a_model_are_read(tied, shard, tmp_path):
    model = llama(tied)
    checkpoint = SafetensorsCheckpoint(save(model, tmp_path / "m", shard))
    parameters = dict(model.named_parameters())
    assert checkpoint.tensors.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert torch.equal(checkpoint.read(name), parameter)
        assert checkpoint.tensors[name].shape == tuple(parameter.shape)


def test_a_checkpoint_survives_pickling(folder):
    checkpoint = SafetensorsCheckpoint(folder)
    name = next(iter(checkpoint.tensors))
    before = checkpoint.read(name)
    assert torch.equal(pickle.loads(pickle.dumps(checkpoint)).read(name), before)


def test_a_tied_head_stored_beside_its_embedding_is_left_out(tmp_path):
    folder = save(llama(tied=True), tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight" not in open_checkpoint(folder).tensors


def test_a_model_in_the_hub_cache_is_read_through_its_links(original, tmp_path):
    snapshot = tmp_path / "models--org--name/snapshots/abc"
    blobs = tmp_path / "models--org--name/blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(original, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert SafetensorsCheckpoint(snapshot).tensors == SafetensorsCheckpoint(original).tensors


BAD_NAMES = [
    "../x.safetensors",
    "/etc/x.safetensors",
    "a/b.safetensors",
    "x\0.safetensors",
    "x.bin",
    "ü.safetensors",
    "a" * 300 + ".safetensors",
    "",
    7,
    None,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_shard_name_that_is_no_plain_file_name_is_refused(name, folder):
    edit_index(folder, lambda m: m.update({next(iter(m)): name}))
    assert any("is not a plain file name" in fault for fault in faults(folder))


@pytest.mark.parametrize("single", [False, True])
def test_a_link_out_of_the_folder_is_refused(single, folder, tmp_path):
    if single:
        folder = save(llama(), tmp_path / "single")
    shard = sorted(folder.glob("*.safetensors"))[0]
    shutil.move(shard, tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    [fault] = faults(folder)
    assert "a link out of the folder" in fault


def test_missing_shards_are_all_listed(folder):
    gone = sorted(folder.glob("*.safetensors"))[1:3]
    for shard in gone:
        shard.unlink()
    assert [f"{shard}: missing shard; download it again" for shard in gone] == faults(folder)


def test_a_stale_index_lists_what_differs(folder):
    def change(weight_map):
        weight_map["model.ghost.weight"] = weight_map.pop("model.norm.weight")

    edit_index(folder, change)
    first, second = faults(folder)
    assert "has no model.ghost.weight" in first
    assert "also has model.norm.weight" in second


def test_every_damaged_shard_is_reported(folder):
    shards = sorted(folder.glob("*.safetensors"))
    shards[0].write_bytes(b"")
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    first, second = faults(folder)
    assert "empty file" in first
    assert "truncated" in second


def test_an_index_beside_another_single_file_is_refused(folder):
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    [fault] = faults(folder)
    assert "leftover" in fault


def test_pickle_weights_are_refused_with_a_way_to_convert_them(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    [fault] = faults(tmp_path)
    assert "save_pretrained" in fault


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json; download it"),
        ("", "not JSON"),
        ("[1]", "got list"),
        ("[" * 99_999, "not JSON"),
    ],
)
def test_a_config_that_is_not_an_object_is_refused(config, message, folder):
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    [fault] = faults(folder)
    assert message in fault


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]"])
def test_an_index_without_a_weight_map_is_refused(content, folder):
    (folder / INDEX).write_text(content)
    assert len(faults(folder)) == 1


def test_a_folder_of_nothing_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    [fault] = faults(tmp_path)
    assert "is it a model folder?" in fault


def test_gpt2_ties_its_head_without_saying_so(tmp_path):
    assert "lm_head.weight" not in SafetensorsCheckpoint(save(gpt2(), tmp_path / "g")).tensors
