"""Models of the hub are compared before their weights are downloaded."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from automerge.checkpoints import outline, resolve
from automerge.checkpoints.outline import Download, Outlines, check_room
from automerge.commands.dry_run import print_cost
from automerge.config import load_config
from automerge.errors import PreflightError
from automerge.inspection import InspectionText, examine, plain
from automerge.session.open import open_session
from automerge.session.preflight import Models, look_ahead, open_models
from tests.hub import Hub, serving
from tests.zoo import write_zoo

WEIGHTS = "model.safetensors"
MODELS = ("base", "left", "right", "adapter")
NOISE = "noise:rank=2,seed=3,scale=0.01"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny zoo, with vocabularies large enough for headers to be little of a file."""
    place = tmp_path_factory.mktemp("zoo")
    write_zoo(place)
    return place


@pytest.fixture
def hub(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the zoo, for this process, with an empty cache; first reads are a few bytes."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(outline, "FIRST_BYTES", 100)
    monkeypatch.setattr(outline, "SAMPLE_BYTES", 64)
    monkeypatch.setattr(outline, "PACE_BYTES", 1000)
    with serving() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name in MODELS:
            served.add(f"org/{name}", zoo / name)
        yield served


def references(*names: str) -> dict[str, str]:
    return {name: f"org/{name}" for name in names}


def ahead(*names: str) -> Models | Download:
    return look_ahead(references(*names), "base", lambda _: None)


def weights_sent(hub: Hub) -> dict[str, int]:
    return {name: n for name, n in hub.sent.items() if name.endswith(".safetensors")}


def with_model(hub: Hub, zoo: Path, name: str, folder: Path, **config: object) -> None:
    """Put the base on the hub again under another name, with other settings."""
    shutil.copytree(zoo / "base", folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    hub.add(f"org/{name}", folder)


def test_what_is_said_of_models_needs_their_headers_alone(hub: Hub, zoo: Path) -> None:
    found = ahead(*MODELS)
    assert isinstance(found, Download)
    files = {f"org/{n}": zoo / n for n in MODELS}
    for reference, folder in files.items():
        assert found.sizes[reference] >= sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    assert found.n_bytes == sum(found.sizes.values())
    assert found.seconds is not None
    for name, n in weights_sent(hub).items():
        file = zoo / name.removeprefix("org/")
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        assert n <= 100 + header + 4 * 64 + 1000 < file.stat().st_size, name


def test_an_outline_says_what_the_whole_model_says(hub: Hub) -> None:
    early = examine(references(*MODELS), weights=False)
    assert early.mergeable
    assert {m.name: m.download > 0 for m in early.models} == dict.fromkeys(MODELS, True)
    assert early.nearest == {}
    for name in MODELS:
        resolve(f"org/{name}")
    late = examine(references(*MODELS), weights=False)
    assert late.download is None
    assert late.verdicts == early.verdicts
    dropped = {"download"}
    for one, other in zip(plain(early)["models"], plain(late)["models"], strict=True):
        assert {k: v for k, v in one.items() if k not in dropped} == {
            k: v for k, v in other.items() if k not in dropped
        }
    assert set(late.nearest) == {"left", "right", "adapter"}


def test_what_cannot_be_merged_is_refused_before_the_download(
    hub: Hub, zoo: Path, tmp_path: Path
) -> None:
    with_model(hub, zoo, "other", tmp_path / "other", hidden_act="gelu")
    with pytest.raises(PreflightError, match="hidden_act: 'gelu' in other, 'silu' in base"):
        open_models(references("base", "other"), "base", lambda _: None)
    with_model(hub, zoo, "quantised", tmp_path / "q", quantization_config={"quant_method": "awq"})
    with pytest.raises(PreflightError) as refused:
        open_models(references("base", "quantised"), "base", lambda _: None)
    assert "org/quantised/config.json: quantised weights (awq)" in str(refused.value)
    hub.repositories["org/right"].files[WEIGHTS] = (zoo / "right" / WEIGHTS).read_bytes()[:-9]
    with pytest.raises(PreflightError, match=f"org/right/{WEIGHTS}: truncated"):
        open_models(references("base", "right"), "base", lambda _: None)
    for name, n in weights_sent(hub).items():
        assert n < len(hub.repositories["/".join(name.split("/")[:2])].files[WEIGHTS]), name


def test_heads_that_differ_from_their_embedding_are_told_from_tied_ones(
    hub: Hub, zoo: Path, tmp_path: Path
) -> None:
    """A base that is not tied, and a source that says so but stores two matrices that differ."""
    tensors = load_file(zoo / "base" / WEIGHTS)
    embedding = "model.embed_tokens.weight"
    for name, tied in (("untied", False), ("says_tied", True)):
        folder = tmp_path / name
        shutil.copytree(zoo / "base", folder)
        settings = json.loads((folder / "config.json").read_text())
        settings["tie_word_embeddings"] = tied
        (folder / "config.json").write_text(json.dumps(settings))
        torch.manual_seed(tied)
        head = torch.randn_like(tensors[embedding])
        save_file({**tensors, "lm_head.weight": head}, folder / WEIGHTS, {"format": "pt"})
        hub.add(f"org/{name}", folder)
    found = look_ahead({"b": "org/untied", "s": "org/says_tied"}, "b", lambda _: None)
    assert isinstance(found, Download)


def test_a_server_without_ranges_is_not_read_to_the_end(hub: Hub, zoo: Path) -> None:
    hub.ranges = False
    assert isinstance(ahead("base", "left"), Download)


def test_models_that_are_here_need_no_outline(hub: Hub, zoo: Path) -> None:
    for name in ("base", "left"):
        resolve(f"org/{name}")
    hub.sent.clear()
    found = ahead("base", "left")
    assert isinstance(found, Models)
    assert not any(folder.outline for folder in found.folders.values())
    assert weights_sent(hub) == {}
    mixed = look_ahead({"base": str(zoo / "base"), "right": "org/right"}, "base", lambda _: None)
    assert isinstance(mixed, Download)
    assert list(mixed.sizes) == ["org/right"]


def test_opening_says_what_is_downloaded_and_then_downloads_it(hub: Hub) -> None:
    told: list[Download] = []
    models = open_models(
        {**references("base", "left"), "n": "noise:rank=2,seed=3,scale=0.01"},
        "base",
        lambda _: None,
        note=told.append,
    )
    assert [list(download.sizes) for download in told] == [["org/base", "org/left"]]
    assert set(models.checkpoints) == {"base", "left", "n"}
    assert not any(folder.outline for folder in models.folders.values())
    open_models(references("base", "left"), "base", lambda _: None, note=told.append)
    assert len(told) == 1


def test_a_download_that_does_not_fit_is_refused() -> None:
    sizes = {"org/base": 600, "org/left": 401}
    check_room(sizes, Path("/cache"), 1001)
    with pytest.raises(PreflightError, match=r"1,001 bytes .* only 1,000 are free in /cache"):
        check_room(sizes, Path("/cache"), 1000)


def test_who_is_not_there_or_private_is_said_as_ever(hub: Hub) -> None:
    hub.repositories["org/left"].private = True
    with pytest.raises(PreflightError, match="org/left: no such model") as refused:
        ahead("base", "left", "gone")
    assert len(refused.value.faults) == 2


def test_outlines_leave_nothing_behind(hub: Hub) -> None:
    with Outlines() as outlines:
        folder = outlines.find("org/base").path
        assert (folder / WEIGHTS).stat().st_blocks * 512 < (folder / WEIGHTS).stat().st_size + 4096
    assert not folder.exists()


def study(place: Path, zoo: Path, right: str) -> Path:
    text = (zoo / "automerge.yaml").read_text()
    for name in MODELS:
        text = text.replace(f": ./{name}", f": {right if name == 'right' else f'org/{name}'}")
    shutil.copytree(zoo / "tasks", place / "tasks")
    (place / "automerge.yaml").write_text(text)
    return place / "automerge.yaml"


def test_a_study_is_refused_for_models_and_tasks_at_once_without_a_download(
    hub: Hub, zoo: Path, tmp_path: Path
) -> None:
    with_model(hub, zoo, "other", tmp_path / "other", hidden_act="gelu")
    file = study(tmp_path, zoo, "org/other")
    file.write_text(file.read_text().replace("metric: exact_match", "metric: exactly"))
    with pytest.raises(PreflightError) as refused:
        open_session(load_config(file), "test")
    assert "gelu" in str(refused.value)
    assert "exactly" in str(refused.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_dry_run_downloads_nothing_and_says_what_it_would(
    hub: Hub, zoo: Path, tmp_path: Path
) -> None:
    file = study(tmp_path, zoo, "org/right")
    screen = Console(file=io.StringIO(), width=80)
    print_cost(load_config(file), screen)
    text = screen.file.getvalue()
    assert "download " in text
    assert "at the pace of one connection" in text
    assert "memory   0.1 GB for a worker's live model" in text
    assert all(f"org/{name}: " in text for name in MODELS)
    assert all(len(line) <= 80 or str(tmp_path) in line for line in text.splitlines())
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not (tmp_path / "runs").exists()


def test_inspect_says_what_is_to_be_downloaded(hub: Hub) -> None:
    found = examine(references("base", "left"), weights=False)
    screen = Console(file=io.StringIO(), width=200)
    screen.print(InspectionText(found))
    text = screen.file.getvalue()
    assert "not downloaded" in text
    assert "weights were not compared: still to download: org/base" in text
    measured = examine(references("base", "left"), weights=True)
    assert measured.weights is not None
    assert measured.download is None
