"""A chat template is a stranger's program: it is stopped in time, and leaves no alarm behind."""

from __future__ import annotations

import resource
import signal
import threading
import time

import pytest

from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval import chat_template
from automerge.evaluation.lm_eval.chat_template import limited
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from tests.evaluation.toys import make_model, make_tokenizer

ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
DOUBLED = (
    "{{% set n = namespace(x={}) %}}{{% for i in range(40) %}}"
    "{{% set n.x = n.x {} n.x %}}{{% endfor %}}"
)
HISTORY = [{"role": "user", "content": "w1"}]


def rendered(template: str):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return lambda *args, **kwargs: tokenizer.apply_chat_template(*args, tokenize=False, **kwargs)


def test_a_template_without_end_is_stopped():
    handler = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    with pytest.raises(PreflightError, match=r"more than 0\.2 s"):
        limited(rendered(ENDLESS), seconds=0.2)(HISTORY)
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_template_that_floods_is_refused():
    flood = "{% for a in range(99999) %}{{ 'flood of words ' * 9 }}{% endfor %}"
    with pytest.raises(PreflightError, match="13499865 characters"):
        limited(rendered(flood))(HISTORY)


@pytest.mark.parametrize(
    "glutton",
    [
        "{{ 'x' * 4000000000 }}",
        "{% set x = [0] * 500000000 %}",
        DOUBLED.format("'x'", "~"),
        "{{ '%4000000000d' % 1 }}",
        "{{ 'x'.ljust(4000000000) }}",
        "{{ 'x' | center(4000000000) }}",
        DOUBLED.format("[0]", "+"),
    ],
)
def test_a_template_that_eats_memory_is_refused_before_it_has_it(glutton):
    before = resource.getrlimit(resource.RLIMIT_AS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PreflightError, match="more than 512 MiB of memory"):
        limited(rendered(glutton), seconds=60)(HISTORY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600 * 1024
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_an_honest_template_is_rendered_as_it_is_also_off_the_main_thread():
    template = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}{% endfor %}"
    found = []
    render = limited(rendered(template))
    thread = threading.Thread(target=lambda: found.append(render(HISTORY)))
    thread.start()
    thread.join()
    assert found == [render(HISTORY)] == ["<user> w1"]


def test_a_study_with_such_a_template_says_so(task_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_template.limited, "__defaults__", (0.2,))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = ENDLESS
    folder = copy_tasks(task_folder, tmp_path / "tasks")
    settings = Settings(folder, apply_chat_template=True)
    with pytest.raises(PreflightError, match="the chat template took more than"):
        LmEvalScorer(make_model(), tokenizer, load_tasks([TaskSpec("choice")], settings))
