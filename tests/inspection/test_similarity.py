"""`automerge inspect --cka`: how alike hidden states are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from automerge import cli
from automerge.inspection.similarity import linear_cka
from tests.evaluation.toys import WORDS, make_model
from tests.zoo import neighbour, save, write_adapter


def by_formula(x, y):
    """Kornblith et al. 2019, section 3, eq. 3 and the linear kernel: HSIC of two kernels, by
    loops, with H = I − 11ᵀ/n."""
    n = len(x)
    kernel_x = np.array([[np.dot(a, b) for b in x] for a in x])
    kernel_y = np.array([[np.dot(a, b) for b in y] for a in y])
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(one, other):
        return np.trace(one @ centre @ other @ centre) / (n - 1) ** 2

    return hsic(kernel_x, kernel_y) / np.sqrt(hsic(kernel_x, kernel_x) * hsic(kernel_y, kernel_y))


@pytest.mark.parametrize("width", [3, 40])
def test_cka_is_the_papers_ratio_of_hsics_whatever_the_widths(width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 7)) + 2.0
    y = x @ rng.normal(size=(7, width)) + rng.normal(size=(12, width))
    found = linear_cka(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(by_formula(x, y), rel=1e-9)
    assert 0 < found < 1


def test_rotations_and_scales_change_nothing():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert linear_cka(torch.tensor(x), torch.tensor(3 * x @ rotation + 5)) == pytest.approx(1)


def test_the_command_compares_fine_tunes_adapters_and_strangers(tmp_path, capsys):
    save(make_model("llama", 0), tmp_path / "base")
    save(neighbour(1), tmp_path / "near")
    save(make_model("llama", 5), tmp_path / "stranger")
    write_adapter(tmp_path / "adapter")
    rng = np.random.default_rng(2)
    text = tmp_path / "prompts.txt"
    text.write_text("\n".join(" ".join(rng.choice(WORDS, 100)) for _ in range(60)))
    models = [str(tmp_path / name) for name in ("base", "base2", "near", "adapter", "stranger")]
    (tmp_path / "base2").symlink_to(tmp_path / "base")
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *models, "--json", "--cka", str(text), "--html", str(page)])
    assert ended.value.code in (0, 3)
    found = {s["source"]: s["layers"] for s in json.loads(capsys.readouterr().out)["similarities"]}
    assert found["base2"] == pytest.approx([1.0] * len(found["base2"]))
    for near, far in zip(found["near"], found["stranger"], strict=True):
        assert 1 > near > far
    assert all(0.2 < value < 1 for value in found["adapter"][1:])
    assert "Hidden states" in page.read_text()


def test_a_text_that_is_too_short_is_refused(tmp_path, capsys):
    save(make_model("llama", 0), tmp_path / "base")
    (tmp_path / "text.txt").write_text("a b c")
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *[str(tmp_path / "base")] * 2, "--cka", str(tmp_path / "text.txt")])
    assert ended.value.code == 3
    assert "expected 3 passages or more" in " ".join(capsys.readouterr().err.split())
