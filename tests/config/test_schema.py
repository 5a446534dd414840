"""The JSON Schema of a study accepts what `load_config` does, and refuses what has another shape.

`python -m tests.config.test_schema` writes the file that is shipped.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from automerge import cli
from automerge.config import load_config
from automerge.config.schema import SHIPPED, study_schema
from automerge.config.settings import StudyConfig
from automerge.errors import ConfigError
from automerge.files.yaml_file import parse_yaml
from automerge.space.named import NAMED, space_file

REPOSITORY = Path(__file__).parents[2]
SMALL = {"base": "org/base", "models": {"left": "org/left"}, "tasks": ["gsm8k"]}


def descriptions() -> dict[str, str]:
    """The meaning of each key, from the table in docs/configuration.md."""
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    found = {}
    for row in page.splitlines():
        cells = re.split(r"(?<!\\)\|", row)
        if row.startswith("| `") and len(cells) == 6:
            names = re.findall(r"`([\w.]+)`", cells[1])
            meaning = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cells[4]).replace(", see below", "")
            for name in names:
                full = names[0].rpartition(".")[0] + name if name.startswith(".") else name
                found[full] = meaning.strip()
    return found


def text() -> str:
    return json.dumps(study_schema(descriptions()), indent=1, ensure_ascii=False) + "\n"


def accepts(study: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(json.loads(SHIPPED.read_text())).is_valid(study))


def test_the_shipped_file_is_up_to_date_and_describes_keys() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == text()
    schema = json.loads(text())
    jsonschema.Draft202012Validator.check_schema(schema)
    described = {key for key, value in schema["properties"].items() if "description" in value}
    assert described == set(StudyConfig.model_fields) - {"item_files"}


def studies_in_docs() -> list[str]:
    pages = [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"]
    found = [
        block
        for page in sorted(pages)
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
        if re.search("^base:", block, re.M) and re.search("^tasks:", block, re.M)
    ]
    assert len(found) > 3
    return found


@pytest.mark.parametrize("block", studies_in_docs())
def test_studies_in_docs_are_accepted(block: str) -> None:
    assert accepts(parse_yaml(block, "docs").data)


def test_the_demo_and_the_search_spaces_are_accepted() -> None:
    demo = REPOSITORY / "automerge" / "demo" / "config.yaml"
    assert accepts(parse_yaml(demo.read_text(), "demo").data)
    for name in NAMED:
        assert accepts({**SMALL, "search": parse_yaml(space_file(name).read_text(), name).data})


@pytest.mark.parametrize(
    "more",
    [
        {"models": ["org/left", "right=org/right"]},
        {"tasks": ["gsm8k:exact_match:maximize", {"task": "mmlu", "name": None, "num_fewshot": 2}]},
        {"budget": None, "max_time": "8h"},
        {"budget": "unlimited", "max_items": 10},
        {"search": {"depth": "per_layer", "components": "all", "weight": [0, 1]}},
        {"search": {"components": [["attention", "mlp"], "norm"], "normalize": [False, True]}},
        {"search": {"methods": {"mlp": "ties", "other": ["linear"]}}},
        {"search": "quick"},
        {"search": {"space": "depth_up", "layers": {"repeat": 2}}},
        {"search": {"density": 0.5, "methods": ["ties"], "layers": {"drop": 2}}},
        {"properties": ["parameters", "kl_to_base"], "evaluation": {"items_per_candidate": "full"}},
        {"starts": 3, "split": {"max_test": 100}, "constraints": ["gsm8k >= base"]},
    ],
)
def test_what_load_config_accepts_the_schema_accepts(more: dict[str, Any]) -> None:
    load_config({**SMALL, **more})
    assert accepts({**SMALL, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"bugdet": 3},
        {"item_files": {}},
        {"models": {}},
        {"models": "org/left"},
        {"tasks": []},
        {"tasks": [{"metric": "acc"}]},
        {"tasks": [{"task": "gsm8k", "shots": 2}]},
        {"tasks": [{"task": "gsm8k", "direction": "up"}]},
        {"budget": "many"},
        {"budget": -1},
        {"search": {"wieght": [0, 1]}},
        {"search": ["quick"]},
        {"search": {"depth": 3}},
        {"search": {"components": "most"}},
        {"evaluation": {"items_per_candidate": 3}},
        {"evaluation": {"device": "tpu"}},
        {"split": {"train": 0.5}},
        {"properties": ["size"]},
        {"export": "all"},
        {"seed": "one"},
        {"workers": 0},
    ],
    ids=str,
)
def test_what_has_another_shape_both_refuse(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load_config({**SMALL, **more})
    assert not accepts({**SMALL, **more})


@pytest.mark.parametrize("key", SMALL)
def test_what_is_required_both_require(key: str) -> None:
    study = {name: value for name, value in SMALL.items() if name != key}
    with pytest.raises(ConfigError):
        load_config(study)
    assert not accepts(study)


def test_an_extension_s_knobs_are_accepted_where_there_are_extensions() -> None:
    search = {"methods": ["mine"], "my_knob": [0, 1]}
    assert not accepts({**SMALL, "search": search})
    assert accepts({**SMALL, "search": search, "extensions": ["mine"]})


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["schema"], text()), (["schema", "--path"], f"{SHIPPED}\n")):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert not ended.value.code
        assert capsys.readouterr().out == said


if __name__ == "__main__":
    SHIPPED.write_text(text(), encoding="utf-8")
