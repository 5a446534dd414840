"""`automerge export-trials`: three formats, one content, nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from automerge import cli
from automerge.commands.export_trials import FORMATS, trial_rows, write_trials
from automerge.items import ItemDraw, Sealed, StudyItems
from automerge.objective import Objective, estimates
from automerge.store.store import Store
from automerge.trial import Failed, Items, Job, Measured, Outcome
from tests.studies import SPACE, toy_plan, toy_record, toy_study
from tests.toy import OBJECTIVES, ToyWorker

EVIL = '=HYPERLINK("http://evil","x")'


def breaks(job: Job) -> Outcome | None:
    if job.trial == 6:
        return Failed("error", EVIL + " hf_abcdefghijklmnopqrstuvwx", "trace")
    return None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "a study"
    return toy_study(folder, worker=ToyWorker(fail=breaks))


def read(path: Path) -> list[dict[str, object]]:
    """What another program reads; CSV cells as their text."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    from pyarrow import parquet

    rows: list[dict[str, object]] = parquet.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_trial_is_one_row_with_the_store_s_numbers(run: Path, file_format: str) -> None:
    rows = read(write_trials(run, file_format))
    with Store(run, write=False) as store:
        trials, outcomes = store.trials(), {p: store.outcomes(p) for p in ("search", "test")}
    assert [int(str(row["number"])) for row in rows] == [trial.number for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert row["recipe_id"] == trial.recipe.id
        assert json.loads(str(row["recipe"])) == trial.recipe.plain()
        for name, value in (trial.params or {}).items():
            assert str(row[f"params.{name}"]) == str(value)
        for part in ("search", "test"):
            outcome = outcomes[part].get(trial.number)
            for objective in OBJECTIVES:
                cell = row[f"{part}.{objective.name}.value"]
                if isinstance(outcome, Measured):
                    found = estimates(OBJECTIVES, outcome.scores)[objective.name]
                    assert float(str(cell)) == found.value
                    assert int(str(row[f"{part}.{objective.name}.n"])) == found.n
                else:
                    assert cell in (None, "")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_failure_is_named_and_keeps_no_token(run: Path, file_format: str) -> None:
    row = read(write_trials(run, file_format))[6]
    assert (row["failure.part"], row["failure.kind"]) == ("search", "error")
    assert "HYPERLINK" in str(row["failure.reason"])
    assert "hf_abc" not in str(row["failure.reason"])


def test_a_spreadsheet_finds_no_formula_to_run(run: Path) -> None:
    with write_trials(run, "csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert f"'{EVIL} ***" in cells
    for cell in cells:
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            assert math.isfinite(float(cell)), "only numbers begin so"


def test_names_with_formulas_are_inert_as_columns_too() -> None:
    [header, _] = FORMATS["csv"]([{"=x": 1, "params.y": -0.5}]).decode().splitlines()
    assert header == "'=x,params.y"


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    from dataclasses import replace

    from automerge.objective import ItemScores
    from automerge.recipe import single
    from automerge.trial import Timings, Trial

    with Store(tmp_path, write=True) as store:
        objective = Objective("x", "t", "acc", "none", "maximize")
        items: Items = {"t": (1,)}
        plan = replace(
            toy_plan(1),
            objectives=(objective,),
            items=StudyItems(items, items, Sealed(items)),
            draw=ItemDraw({"x": ("t",)}, None, seed=0),
        )
        store.begin(toy_record(plan))
        store.ask(Trial(0, single("base"), "base", "base"))
        scores = {"x": ItemScores((("t", 1),), (math.nan,))}
        store.record(Job(0, single("base"), "search", {"t": (1,)}), Measured(scores, Timings()))
        [row] = trial_rows(store)
    assert row["search.x.value"] is None
    assert json.loads(FORMATS["jsonl"]([row]))["search.x.n"] == 1


def test_duplicates_show_the_scores_they_share(run: Path) -> None:
    with Store(run, write=False) as store:
        rows = {row["number"]: row for row in trial_rows(store)}
        for number, original in store.duplicates().items():
            assert rows[number]["search.first.value"] == rows[original]["search.first.value"]


def test_a_trial_the_search_asked_has_its_parameters_flattened(run: Path) -> None:
    with Store(run, write=False) as store:
        last = list(trial_rows(store))[-1]
    named = {name.removeprefix("params.") for name in last if name.startswith("params.")}
    assert "method" in named
    assert named <= {parameter.name for parameter in SPACE.parameters}


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code, capsys.readouterr().err


def test_the_command_writes_where_it_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "münchen 模型.jsonl"
    code, _ = fails(capsys, "export-trials", str(run), "--format", "jsonl", "--out", str(out))
    assert code == 0
    assert len(read(out)) >= 12
    assert [p for p in tmp_path.iterdir() if p != out] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--format", "cvs"), 2, "did you mean 'csv'"),
        (("--out", "."), 2, "is a folder"),
        (("--out", "/proc/none/x.csv"), 5, "cannot write"),
    ],
)
def test_what_cannot_be_written_is_said(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    found = fails(capsys, "export-trials", str(run), *arguments)
    assert found[0] == code
    assert said in found[1]
    assert "Traceback" not in found[1]
