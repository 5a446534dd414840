"""Task files of strangers: nothing of theirs runs, and nothing takes all there is."""

from __future__ import annotations

import os
import threading
import time

import pytest

from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.guards import MetricError
from automerge.evaluation.lm_eval import judge as judging
from automerge.evaluation.lm_eval import limits, templates
from automerge.evaluation.lm_eval.answers import Answers
from automerge.evaluation.lm_eval.limits import OutOfTime, alarm
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.task_yaml import Unreadable, compose
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from tests.evaluation.toys import make_model, make_tokenizer, refusals


@pytest.fixture
def folder(task_folder, tmp_path):
    return copy_tasks(task_folder, tmp_path / "tasks", ["choice"])


def messages(folder, name, **settings):
    found = refusals([TaskSpec(name)], Settings(folder, **settings))
    return " ".join(fault.message for fault in found)


def rendered(template, **document):
    from lm_eval.utils import apply_template

    templates.install()
    return apply_template(template, document)


REACHING = {
    "a private attribute": "{{ ''.__class__ }}",
    "a computed key": "{{ x['_' ~ '_class__'] }}",
    "a key from the data": "{{ lipsum[key]['os'].system('touch SENTINEL') }}",
    "a filter": "{{ x | attr('_' ~ '_class__') }}",
    "a helper of Jinja's": "{{ cycler.__init__.__globals__.os.popen('touch SENTINEL') }}",
    "a bound method": "{{ (x.strip | attr('__self__')).upper() }}",
    "a format string": "{{ '{0.__class__}'.format(x) }}",
    "an object of the data": "{{ image.save('SENTINEL') }}",
    "a change of the data": "{{ parts.append(1) }}",
}


class Image:
    def save(self, path):
        os.close(os.open(path, os.O_CREAT))


@pytest.mark.parametrize("way", REACHING)
def test_templates_reach_neither_python_nor_files(way, tmp_path):
    sentinel = tmp_path / "sentinel"
    with pytest.raises(PreflightError, match="a template is refused"):
        rendered(
            REACHING[way].replace("SENTINEL", str(sentinel)),
            x="a", key="__globals__", image=Image(), parts=[],
        )  # fmt: skip
    assert not sentinel.exists()


GREEDY = {
    "time": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "time in an expression": "{{ x | regex_replace('(a+)+$', 'b') }}",
    "memory": "{{ '%999999999d' % 1 }}",
    "memory of a constant": "{{ 'a' | center(9999999999) }}",
    "memory of doubling": "{% set n = namespace(x='a' * 99) %}{% for a in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "text": "{% for a in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
    "a product": "{{ 'a' * 10**10 }}",
    "a power": "{{ 9 ** 99999999 }}",
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("what", GREEDY)
def test_templates_take_little_time_memory_and_text(what, monkeypatch):
    monkeypatch.setattr(templates, "MAX_S", 1.0)
    with pytest.raises(templates.TemplateRefused):
        rendered(GREEDY[what], x="a" * 60 + "c")


def test_limits_hold_on_any_thread_and_end_with_what_they_were_for():
    caught = []

    def loop():
        try:
            with alarm(0.05):
                while True:
                    pass
        except OutOfTime:
            caught.append(True)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert caught == [True]
    with alarm(0.05):
        pass
    time.sleep(0.1)


def test_only_the_time_that_code_has_had_counts_up_to_a_limit_by_the_clock(monkeypatch):
    """Whoever waits for a processor, as on a machine that many share, has not run for too long."""

    def waiting(long):
        with alarm(0.02):
            time.sleep(long)

    def elsewhere(long):
        thread = threading.Thread(target=lambda: found.append(waiting(long)))
        thread.start()
        thread.join()

    found = []
    monkeypatch.setattr(limits, "PATIENCE", 10**6)
    for run in (waiting, elsewhere):
        run(0.1)
    assert found == [None]
    monkeypatch.setattr(limits, "PATIENCE", 1)
    with pytest.raises(OutOfTime):
        waiting(60)


def test_a_filter_that_takes_too_long_is_stopped_and_named(task_folder, tmp_path, monkeypatch):
    folder = copy_tasks(task_folder, tmp_path / "copied")
    (folder / "own.yaml").write_text(
        "include: generate.yaml\ntask: own\nfilter_list:\n  - {name: word, filter: "
        "[{function: regex, regex_pattern: '(?:[a-z ]+)+$!'}, {function: take_first}]}\n"
    )
    monkeypatch.setattr(judging, "FILTER_SECONDS", 0.5)
    task_set = load_tasks([TaskSpec("own", "exact_match")], Settings(folder))
    judge = LmEvalScorer(make_model(), make_tokenizer(), task_set)
    items = {"own": (0, 1)}
    answers = Answers({("own", i): ("a" * 60,) for i in (0, 1)}, 0)
    with pytest.raises(MetricError, match=r"filter 'word' of task 'own' took more than 0\.7 s"):
        judge.judge(items, answers)


ORDINARY = [
    "Q: {{question.strip()}} {% for c in choices %}{{loop.index}}. {{c}}{% endfor %}\n",
    "{{choices[answer]}} {{ question | replace('a', 'b') | regex_replace('b+', 'c') }}",
    "{{ choices.index('x') }}{% set n = range(3) %}{{ n[1] }}{{ ['A', 'B'][answer|int] }}",
    "{{ question.split()[0] ~ doc['field name'].lower() }}{{ '%.2f' % 1.5 }}{{ 2 ** 10 * 3 }}",
    "{% set ns = namespace(n=0) %}{% for c in choices %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}{{ doc.items() | list }}{{ 'a{}'.format(1) }}{{ day.isoformat() }}",
    "{% macro twice(t) %}{{ t }}{{ t }}{% endmacro %}{{ twice('a') }}{{ choices | join(', ') }}",
]


@pytest.mark.parametrize("template", ORDINARY)
def test_ordinary_templates_give_what_lm_eval_gives(template):
    import datetime

    from lm_eval.utils import apply_template

    document = {
        "question": " an aa b ", "choices": ["x", "y"], "answer": 1, "doc": {"field name": "Q"},
        "day": datetime.date(2024, 2, 3),
    }  # fmt: skip
    with templates.stock():
        expected = apply_template(template, document)
    assert rendered(template, **document) == expected


def test_a_template_is_compiled_once_and_keeps_nothing_between_documents():
    from lm_eval import utils

    template = "{% set seen = namespace(n=0) %}{% set seen.n = seen.n + x %}{{ seen.n }}"
    assert [rendered(template, x=x) for x in (1, 2, 2)] == ["1", "2", "2"]
    assert utils.env.from_string(template) is utils.env.from_string(template)


@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "doc_to_choice", "description",
                                 "gen_prefix"])  # fmt: skip
def test_every_template_of_a_task_is_rendered_in_the_sandbox(folder, key, tmp_path):
    from automerge.evaluation.lm_eval.scorer import LmEvalScorer
    from tests.evaluation.toys import make_model, make_tokenizer

    sentinel = tmp_path / "sentinel"
    attack = f"{{{{ lipsum['__glo' ~ 'bals__']['os'].system('touch {sentinel}') }}}}"
    (folder / "evil.yaml").write_text(f'include: choice.yaml\ntask: evil\n{key}: "{attack}"\n')
    with pytest.raises(PreflightError, match="template is refused"):
        LmEvalScorer(
            make_model(), make_tokenizer(), load_tasks([TaskSpec("evil")], Settings(folder))
        )
    assert not sentinel.exists()


def test_what_one_file_hides_from_another_does_not_run(folder, tmp_path):
    sentinel = tmp_path / "sentinel"
    (folder / "evil.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    evil = folder / "evil.py"
    # An unknown metric, excused by a process_results that the including file takes away again.
    (folder / "_base.yaml").write_text(
        f"include: choice.yaml\nmetric_list: [{{metric: {evil}, aggregation: mean, "
        "higher_is_better: true}]\nprocess_results: x\n"
    )
    (folder / "task.yaml").write_text("include: _base.yaml\ntask: hidden\nprocess_results: null\n")
    assert "would run code" in messages(folder, "hidden")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dataset_path: pandas", "can run code"),
        ("use_prompt: 'local.yaml:x'", "use_prompt"),
        ("dataset_kwargs: {trust_remote_code: true}", "trust_remote_code"),
        ("dataset_kwargs: {cache_dir: /tmp/x}", "cache_dir must not be set by a task"),
        ("dataset_kwargs: {storage_options: {a: b}}", "storage_options must not"),
        ("process_docs: !function os.system", "!function os.system"),
        ("class: !function os.system", "!function os.system"),
        ("custom_dataset: !function os.system", "!function os.system"),
        ("fewshot_config: {samples: !function os.system}", "!function os.system"),
    ],
)
def test_what_can_run_code_or_write_elsewhere_is_refused_by_name(folder, line, said):
    (folder / "evil.yaml").write_text(f"include: choice.yaml\ntask: evil\n{line}\n")
    assert said in messages(folder, "evil")


@pytest.mark.parametrize("place", ["named", "beside"])
def test_a_copied_folder_of_a_strangers_run_is_held_to_the_same_rule(folder, place):
    (folder / "evil.yaml").write_text(
        "include: choice.yaml\ntask: evil\ndoc_to_text: !function evil.run\n"
    )
    name = "evil" if place == "named" else "choice"
    assert ("would run code" in messages(folder, name)) == (place == "named")


def unpleasant(folder):
    """Everything that a folder of tasks may hold beside tasks."""
    os.mkfifo(folder / "pipe.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    (folder / "gone.yaml").symlink_to(folder / "nowhere")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / "around").symlink_to(folder)
    (folder / "latin.yaml").write_bytes("task: caf\xe9\n".encode("latin-1"))
    (folder / "many.yaml").write_text("kind: Pod\n---\nkind: Service\n")
    (folder / "chart.yaml").write_text("{{- if .Values.x }}\na: b\n{{- end }}\n")
    (folder / "list.yaml").write_text("[1, 2]\n")
    (folder / "dots.yaml").write_text(
        "task: dots\ndataset_path: .\ndataset_kwargs: {data_dir: .}\n"
    )
    (folder / "self.yaml").write_text("include: self.yaml\ntask: self\n")
    (folder / "deep.yaml").write_text("[" * 100_000)
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )
    (folder / "laughs.yaml").write_text(f"task: laughs\n{laughs}")
    with (folder / "huge.yaml").open("wb") as stream:
        stream.truncate(2**40)
    with (folder / "huge.bin").open("wb") as stream:
        stream.truncate(2**40)
    (folder / "secret").symlink_to("/etc")


def test_only_what_a_task_names_is_read_and_copied(task_folder, tmp_path, monkeypatch):
    source = copy_tasks(task_folder, tmp_path / "mine", ["choice", "both"])
    unpleasant(source)
    monkeypatch.chdir(source)
    copied = copy_tasks(source, source / "runs" / "study" / "tasks", ["both"])
    names = sorted(str(p.relative_to(copied)) for p in copied.rglob("*") if p.is_file())
    assert names == ["both.yaml", "choice.yaml", "data/choice.jsonl", "data/single.jsonl",
                     "single.yaml"]  # fmt: skip
    assert len(load_tasks([TaskSpec("both")], Settings(copied)).tasks) == 2


@pytest.mark.parametrize("name", ["pipe", "zero", "gone", "loop", "latin", "many", "deep", "laughs",
                                  "huge"])  # fmt: skip
def test_a_task_file_that_cannot_be_one_says_why(tmp_path, name):
    import yaml

    unpleasant(tmp_path)
    with pytest.raises((Unreadable, OSError, yaml.YAMLError)) as caught:
        compose(tmp_path / f"{name}.yaml")
    assert str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"), [("pipe.yaml", "not a regular file"), ("zero.yaml", "not a regular file"),
                       ("loop.yaml", "cannot be read"), ("huge.bin", "at most")],
)  # fmt: skip
def test_data_that_cannot_be_copied_are_refused_by_name(tmp_path, data, said):
    source = tmp_path / "mine"
    source.mkdir()
    unpleasant(source)
    (source / "a.yaml").write_text(
        f"task: a\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\n"
    )
    with pytest.raises(PreflightError, match=said) as caught:
        copy_tasks(source, tmp_path / "run" / "tasks", ["a"])
    assert data in str(caught.value)


def test_what_a_tasks_python_names_is_copied_with_it(tmp_path):
    source = tmp_path / "mine"
    source.mkdir()
    (source / "a.yaml").write_text(
        "task: a\ndataset_path: json\ndoc_to_text: !function code.show\n"
    )
    (source / "code.py").write_text(
        "import helper\nfrom pathlib import Path\nP = Path(__file__).parent / 'words.txt'\n"
    )
    for name in ("helper.py", "words.txt", "other.py"):
        (source / name).write_text("")
    copied = copy_tasks(source, tmp_path / "run" / "tasks", ["a"])
    assert sorted(p.name for p in copied.iterdir()) == [
        "a.yaml", "code.py", "helper.py", "words.txt"
    ]  # fmt: skip


def test_a_run_folder_among_the_tasks_is_none_of_them(task_folder, tmp_path):
    source = copy_tasks(task_folder, tmp_path / "mine", ["choice"])
    run = source / "a_run"
    run.mkdir()
    (run / "study.sqlite").touch()
    (run / "copy.yaml").write_text("task: copy\n")
    (source / "z.yaml").write_text("include: choice.yaml\ntask: z\n")
    names = sorted(p.name for p in copy_tasks(source, tmp_path / "run" / "tasks").glob("*"))
    assert names == ["choice.yaml", "data", "z.yaml"]
