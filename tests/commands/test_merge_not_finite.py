"""A merge that is not finite says which model is to blame, if one is."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from automerge import cli
from tests.zoo import write_zoo

NORM = "model.norm.weight"
RECIPE = """\
recipe: 1
models: {{base: ./base, left: ./left}}
method: task_arithmetic
base: base
sources: {{left: {{weight: {weight}}}}}
"""


@pytest.mark.parametrize(
    ("number", "weight", "said"),
    [
        (float("nan"), 1, f"left: tensor '{NORM}' is not finite"),
        (float("inf"), 0.5, f"left: tensor '{NORM}' is not finite"),
        (3e38, 3, f"the merged tensor '{NORM}' is not finite (NaN or infinite): use smaller"),
    ],
)
def test_the_model_is_named_or_the_weights_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: float, weight: float, said: str
) -> None:
    write_zoo(tmp_path)
    path = tmp_path / "left" / "model.safetensors"
    tensors = load_file(path)
    tensors[NORM] = tensors[NORM].float()
    tensors[NORM][0] = number
    save_file(tensors, path, {"format": "pt"})
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(weight=weight))
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 3
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
