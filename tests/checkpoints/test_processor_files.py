"""What prepares sound and images comes with a model, from a source where the base has none."""

from __future__ import annotations

import pytest
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    WhisperFeatureExtractor,
)

from automerge.checkpoints import align, open_checkpoint, write_checkpoint
from automerge.recipe import Vocabulary
from tests.checkpoints.vocabularies import bpe, edit_json, with_added, write

TOKENIZER = bpe(300)


@pytest.fixture
def models(tmp_path):
    write(tmp_path / "base", TOKENIZER)
    write(tmp_path / "fine", TOKENIZER, seed=1)
    return tmp_path


def opened(models):
    return {name: open_checkpoint(models / name) for name in ("base", "fine")}


def exported(aligned, folder):
    base = aligned.checkpoints["base"]
    tensors = ((name, base.read(name)) for name in base.tensors)
    return write_checkpoint(folder, base.tensors, tensors, base.assets).path


def test_a_processor_that_only_a_source_has_is_the_results_which_is_said(models):
    WhisperFeatureExtractor(feature_size=24).save_pretrained(models / "fine")
    aligned = align(opened(models), "base")
    [warning] = aligned.warnings
    assert "base has no preprocessor_config.json; the merged model gets that of fine" in warning
    found = AutoFeatureExtractor.from_pretrained(exported(aligned, models / "out"))
    assert found.feature_size == 24


def test_the_bases_own_processor_stays_and_a_sources_other_one_is_said(models):
    for name, size in (("base", 8), ("fine", 16)):
        WhisperFeatureExtractor(feature_size=size).save_pretrained(models / name)
    aligned = align(opened(models), "base")
    assert any("fine: its preprocessor_config.json differs" in w for w in aligned.warnings)
    found = AutoFeatureExtractor.from_pretrained(exported(aligned, models / "out"))
    assert found.feature_size == 8
    edit_json(models / "fine" / "preprocessor_config.json", feature_size=8, n_fft=400)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(models / "fine")
    edit_json(models / "fine" / "preprocessor_config.json", processor_class="Other")
    assert align(opened(models), "base").warnings == ()


def test_another_models_tokenizer_leaves_the_bases_processor_and_modules(models):
    WhisperFeatureExtractor().save_pretrained(models / "base")
    (models / "base" / "1_Pooling").mkdir()
    (models / "base" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    write(models / "fine", with_added(TOKENIZER, "<|tool|>"), seed=1)
    (models / "fine" / "notes.txt").write_text("the source's")
    out = exported(align(opened(models), "base", Vocabulary("fine")), models / "out")
    assert "<|tool|>" in AutoTokenizer.from_pretrained(out).get_vocab()
    AutoFeatureExtractor.from_pretrained(out)
    assert (out / "1_Pooling" / "config.json").exists()
    assert not (out / "notes.txt").exists()
