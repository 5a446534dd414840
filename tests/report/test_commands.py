import json
import shlex

from automerge.report.commands import score_command, write_test_items
from automerge.report.commands import test_items as items_of_test

from .factory import OBJECTIVES, study

RESULT = study(OBJECTIVES[:2], n_trials=8)


def test_the_items_are_those_of_the_sealed_test(tmp_path):
    found = json.loads(write_test_items(RESULT, tmp_path).read_text())
    assert found == items_of_test(RESULT)
    assert found == {task: list(range(370, 970)) for task in ("gsm8k", "mbpp")}


def test_lm_eval_itself_understands_the_command(tmp_path, monkeypatch):
    """Its own parser and configuration read the command, samples file included."""
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig

    write_test_items(RESULT, tmp_path)
    monkeypatch.chdir(tmp_path)
    trial = next(t for t in RESULT.trials if t.trial.number == RESULT.front[0])
    program, *arguments = shlex.split(score_command(RESULT, trial))
    assert program == "lm_eval"
    config = EvaluatorConfig.from_cli(HarnessCLI()._parser.parse_args(arguments))
    assert config.model_args["pretrained"] == trial.model_dir
    assert config.samples == items_of_test(RESULT)
    assert list(config.tasks) == ["gsm8k", "mbpp"]
    assert config.num_fewshot == 5


def test_names_with_spaces_are_quoted():
    trial = RESULT.trials[0]
    command = score_command(RESULT, trial, model_dir="my models/$(x)")
    assert "pretrained=my models/$(x)" in shlex.split(command)
