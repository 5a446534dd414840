import shlex
from dataclasses import replace

from automerge.report.commands import score_commands
from tests.report.factory import study


def test_every_command_names_the_model_whatever_its_folder_is_called():
    result = study()
    commands = (("lm_eval", "--model_args", "pretrained=MODEL,dtype=float32"), ("echo", "MODEL"))
    result = replace(result, provenance=replace(result.provenance, score_commands=commands))
    lines = score_commands(result, "my models/$(x)").splitlines()
    assert [shlex.split(line) for line in lines] == [
        ["lm_eval", "--model_args", "pretrained=my models/$(x),dtype=float32"],
        ["echo", "my models/$(x)"],
    ]
