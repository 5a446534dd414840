"""Whole searches through the command line, on a tiny zoo: real models, tasks, store and signals."""

from __future__ import annotations

import html
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest

import automerge
from automerge.report.commands import score_commands
from automerge.store.store import Store
from automerge.trial import PARTS, Measured
from tests import forked
from tests.command_line import AUTOMERGE, REPOSITORY, surroundings
from tests.evaluation.toys import phrase
from tests.zoo import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `automerge.yaml`, its models and its tasks; its name is not plain ASCII."""
    folder = tmp_path_factory.mktemp("zoo") / "münchen 模型 a b"
    folder.mkdir()
    write_zoo(folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    return surroundings(HF_HOME=str(cache), HF_TOKEN="hf_plantedplantedplanted")


@pytest.fixture(scope="module")
def finished(zoo: Path, environment: dict[str, str]) -> Path:
    done = run(zoo, environment, "search", "--export", "front")
    assert done.returncode == 0, done.stderr
    assert "sealed test items" in done.stdout
    return zoo / "runs" / "tiny"


def run(
    folder: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return forked.automerge(folder, *arguments, environment=environment)


def content(folder: Path) -> tuple[object, ...]:
    """All that two runs of one study must share: trials, item scores, front."""
    with Store(folder, write=False) as store:
        scores = {
            part: {n: o.scores for n, o in store.outcomes(part).items() if isinstance(o, Measured)}
            for part in PARTS
        }
        decided = store.study.decided
        return store.trials(), scores, decided.shortlist, decided.front


def measurements(folder: Path) -> int:
    with Store(folder, write=False) as store:
        return sum(len(store.outcomes(part)) for part in PARTS)


def test_front_json_keeps_its_schema_and_names_everybody(finished: Path) -> None:
    document = json.loads((finished / "front.json").read_text())
    schema = json.loads((REPOSITORY / "automerge/report/front.schema.json").read_text())
    jsonschema.validate(document, schema)
    kinds = [member["kind"] for member in document["members"]]
    assert kinds.count("base") == kinds.count("baseline") == 1
    assert kinds.count("parent") == 3
    for member in document["members"]:
        for scores in member["scores"].values():
            assert scores["test"]["n"] > 20
        exported = member["kind"] == "front"
        assert (member["model_dir"] is not None) is exported
        if exported:
            assert (finished / member["model_dir"] / "model.safetensors").is_file()


def test_the_library_reads_the_same_front(finished: Path) -> None:
    study = automerge.load_study(finished)
    document = json.loads((finished / "front.json").read_text())
    assert len(study.members) == len(document["members"]) > len(study.front) > 0
    for member, plain in zip(study.members, document["members"], strict=True):
        folder = member.model_dir
        assert plain["model_dir"] == (folder and str(folder.relative_to(finished)))
        assert plain["recipe"] == member.recipe.plain()
        assert {name: s.test.value for name, s in member.scores.items()} == {
            name: scores["test"]["value"] for name, scores in plain["scores"].items()
        }
        for key in ("name", "kind", "on_front", "knee", "trial", "nondominated_probability"):
            assert getattr(member, key) == plain[key]
    assert [m.name for m in study.front] == [
        m["name"] for m in document["members"] if m["kind"] == "front"
    ]


def test_the_same_command_again_measures_nothing(
    finished: Path, zoo: Path, environment: dict[str, str]
) -> None:
    before, count = content(finished), measurements(finished)
    again = run(zoo, environment, "search")
    assert again.returncode == 0, again.stderr
    assert (content(finished), measurements(finished)) == (before, count)


def test_a_resumed_search_writes_what_is_missing_and_renews_all_cards(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """As it is after a kill before the first model was written, then with another `export`."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "models")
    done = run(zoo, environment, "search", "--out", str(out))
    assert done.returncode == 0, done.stderr
    study = automerge.load_study(out)
    assert study.best is not None
    taken, other = (
        study.best.name,
        next(
            t.trial
            for t in study.result.trials
            if t.trial.origin == "sampler" and t.trial.name != study.best.name
        ),
    )
    assert [member.name for member in study.members if member.model_dir] == [taken]
    assert f"model        {out / 'models' / taken}\n" in done.stdout
    assert f"any other: automerge export {out} --trial N\n" in done.stdout

    weights = out / "models" / taken / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    done = run(zoo, environment, "export", str(out), "--trial", other.name)
    assert done.stdout == f"{out / 'models' / other.name}\n"
    cards = [out / "models" / name / "README.md" for name in (taken, other.name)]
    texts = [card.read_text(encoding="utf-8") for card in cards]
    for card in cards:
        card.write_text("what an earlier study said")
    for words in (["search", "--out", str(out), "--export", "front"], ["export", str(out)]):
        done = run(zoo, environment, *words)
        assert done.returncode == 0, done.stderr
        assert [card.read_text(encoding="utf-8") for card in cards] == texts
    assert done.stdout == f"{out / 'models' / taken}\n"
    assert weights.stat().st_mtime_ns == stamp
    kept = {path.name for path in (out / "models").iterdir()}
    assert kept == {member.name for member in study.front} | {other.name}


@pytest.mark.slow
def test_planned_batches_give_the_same_scores_and_are_said(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    options = ("--batch-size", "auto", "--budget", "6", "--export", "none")
    done = run(zoo, environment, "search", "--out", str(tmp_path / "auto"), *options)
    assert done.returncode == 0, done.stderr
    said = "up to 4096 tokens at once"
    assert f"batches     {said}\n" in (tmp_path / "auto" / "log.txt").read_text(encoding="utf-8")
    assert f"Batches: {said}." in run(zoo, environment, "status", str(tmp_path / "auto")).stdout
    assert said in (tmp_path / "auto" / "report.html").read_text(encoding="utf-8")
    with Store(tmp_path / "auto", write=False) as auto, Store(finished, write=False) as given:
        found, expected = auto.outcomes("search"), given.outcomes("search")
        assert len(found) == 6
        for number, outcome in found.items():
            assert isinstance(outcome, Measured)
            other = expected[number]
            assert isinstance(other, Measured)
            assert {n: s.values for n, s in outcome.scores.items()} == {
                n: s.values for n, s in other.scores.items()
            }


def test_status_counts_what_was_done(finished: Path, environment: dict[str, str]) -> None:
    done = run(finished.parent, environment, "status", "tiny", "--json")
    status = json.loads(done.stdout)
    assert (status["state"], status["measured"], status["remaining"]) == ("finished", 9, 0)
    assert status["front"]
    assert status["generated"] == ["continuous"]
    front = json.loads((finished / "front.json").read_text(encoding="utf-8"))
    assert status["verdict"] == front["conclusion"][0]
    shown = run(finished.parent, environment, "status", "tiny").stdout
    assert "finished" in shown
    assert "Generator of answers: continuous." in " ".join(shown.split())
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert "answers generated" in report


def test_the_log_says_when_and_what_and_how_each_run_ended(
    finished: Path, zoo: Path, environment: dict[str, str]
) -> None:
    lines = (finished / "log.txt").read_text(encoding="utf-8").splitlines()
    times = [datetime.fromisoformat(line[:20]) for line in lines]
    assert times == sorted(times)
    said = [line[22:] for line in lines]
    assert said[0] == "begun       tiny, by: automerge search --export front"
    assert said[2].startswith("versions    python 3.")
    with Store(finished, write=False) as store:
        names = [trial.name for trial in store.trials()]
    searched = [line.split()[2] for line in said if line.startswith("searching ")]
    assert sorted(searched) == sorted(names)
    first = said[: said.index("finished") + 1]
    phases = [line.split()[1] for line in first if line.startswith("phase ")]
    assert phases == ["searching,", "selecting,", "testing,"]
    exported = {line.split()[1] for line in first if line.startswith("exported ")}
    assert exported == {f"models/{path.name}" for path in (finished / "models").iterdir()}
    assert str(zoo) not in "".join(lines)
    assert run(zoo, environment, "search").returncode == 0
    more = (finished / "log.txt").read_text(encoding="utf-8").splitlines()
    assert more[: len(lines)] == lines
    assert more[len(lines)][22:] == "resumed     tiny, by: automerge search"
    assert more[-1][22:] == "finished"


def test_no_file_holds_the_token(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if b"hf_planted" in path.read_bytes()] == []


def lm_eval(
    model: str, finished: Path, environment: dict[str, str]
) -> dict[tuple[str, int], float]:
    """Item scores by the command that the report and the model card print."""
    (command,) = score_commands(automerge.load_study(finished).result, model).splitlines()
    assert command in (finished / model / "README.md").read_text()
    program, *arguments = shlex.split(command)
    assert program == "lm_eval"
    done = forked.python(finished, "-m", program, *arguments, environment=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for task, metric in (("choose", "acc"), ("say", "exact_match")):
        (logged,) = (finished / "lm_eval_output").rglob(f"samples_{task}_*.jsonl")
        for line in logged.read_text().splitlines():
            sample = json.loads(line)
            found[task, sample["doc_id"]] = float(sample[metric])
    return found


def test_an_exported_model_scores_the_same_in_lm_eval_item_by_item(
    finished: Path, environment: dict[str, str]
) -> None:
    document = json.loads((finished / "front.json").read_text())
    member = next(m for m in document["members"] if m["kind"] == "front")
    theirs = lm_eval(member["model_dir"], finished, environment)
    with Store(finished, write=False) as store:
        outcome = store.outcomes("test")[member["trial"]]
    assert isinstance(outcome, Measured)
    ours = {
        item: value
        for scores in outcome.scores.values()
        for item, value in zip(scores.items, scores.values, strict=True)
    }
    assert theirs == ours
    for name in ("choose", "say"):
        test = member["scores"][name]["test"]
        mean = sum(value for (task, _), value in theirs.items() if task == name) / test["n"]
        assert test["value"] == pytest.approx(mean, abs=1e-12)


@pytest.mark.slow
def test_a_search_over_layers_exports_what_it_measured(
    zoo: Path, environment: dict[str, str]
) -> None:
    config = zoo / "layers.yaml"
    text = (zoo / "automerge.yaml").read_text().replace("name: tiny", "name: layers")
    text = text.replace("depth: {knots: 2}}", "depth: {knots: 2}, layers: {drop: 1, repeat: 2}}")
    text = text.replace("shortlist: 3", "shortlist: 9")
    config.write_text(f"{text}properties: [parameters]\n")  # the smaller are on the front
    done = run(zoo, environment, "search", str(config), "--budget", "24", "--export", "front")
    assert done.returncode == 0, done.stderr
    finished = zoo / "runs" / "layers"
    with Store(finished, write=False) as store:
        outcomes, trials = store.outcomes("test"), store.trials()
    assert all(isinstance(outcome, Measured) for outcome in outcomes.values())
    made = {n: s for n in outcomes if (s := trials[n].recipe.slices)}
    depths = {sum(piece.n_layers for piece in slices) for slices in made.values()}
    assert depths, "the test needs a model of another depth"
    document = json.loads((finished / "front.json").read_text())
    exported = [m for m in document["members"] if m["trial"] in made and m["model_dir"]]
    assert exported
    for member in exported[:2]:
        theirs = lm_eval(member["model_dir"], finished, environment)
        outcome = outcomes[member["trial"]]
        assert isinstance(outcome, Measured)
        assert theirs == {
            item: value
            for name in ("choose", "say")
            for item, value in zip(
                outcome.scores[name].items, outcome.scores[name].values, strict=True
            )
        }


@pytest.mark.slow
def test_a_search_for_a_method_of_each_group_follows_slopes_and_exports_what_it_measured(
    zoo: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    text = (zoo / "automerge.yaml").read_text().replace("name: tiny", "name: groups")
    text = text.replace("sampler: random", "sampler: descent")
    groups = "{attention: [linear, ties], depth<0.5: [task_arithmetic], other: [linear, ties]}"
    text = text.replace("[linear, task_arithmetic, ties]", groups)
    (zoo / "groups.yaml").write_text(text)
    done = run(zoo, environment, "search", "groups.yaml", "--budget", "16", "--export", "front")
    assert done.returncode == 0, done.stderr
    finished = zoo / "runs" / "groups"
    with Store(finished, write=False) as store:
        trials, outcomes = store.trials(), store.outcomes("search")
    proposed = [trial for trial in trials if trial.origin == "sampler"]
    chosen = {tuple(trial.recipe.by_selector.items()) for trial in proposed}
    assert len(chosen) > 1
    assert all([s for s, _ in own] == ["attention", "depth<0.5", "default"] for own in chosen)
    sloped = [outcomes[t.number] for t in proposed if t.slopes]
    assert any(isinstance(o, Measured) and set(o.slopes) == {"choose", "say"} for o in sloped)
    made = [t.name for t in proposed if (finished / "models" / t.name).is_dir()]
    for name in made[:1]:
        model = finished / "models" / name
        assert "one method" in (model / "mergekit.yaml").read_text()
        done = run(tmp_path, environment, "merge", str(model / "recipe.yaml"), "--out", "again")
        assert done.returncode == 0, done.stderr
        merged = (tmp_path / "again" / "model.safetensors").read_bytes()
        assert merged == (model / "model.safetensors").read_bytes()


def test_a_recipe_merges_to_the_model_it_was_exported_with(
    finished: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (model, *_) = sorted((finished / "models").iterdir())
    for recipe in ("recipe.yaml", "mergekit.yaml"):
        out = tmp_path / recipe
        done = run(tmp_path, environment, "merge", str(model / recipe), "--out", str(out))
        assert done.returncode == 0, done.stderr
        merged = (out / "model.safetensors").read_bytes()
        assert merged == (model / "model.safetensors").read_bytes()


def stopped(
    zoo: Path,
    environment: dict[str, str],
    out: Path,
    signals: Sequence[int],
    after: int,
) -> tuple[int, str]:
    """Start a search, send signals once `after` measurements are in; its exit code and words.

    How it ended is appended to OUT.told by its command of `--notify`.
    It is held while they are sent, so that it sees all of them at once.
    """
    told = f"echo $AUTOMERGE_STATE >> {shlex.quote(f'{out}.told')}"
    child = subprocess.Popen(
        [*AUTOMERGE, "search", "--out", str(out), f"--notify={told}"],
        cwd=zoo,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(("searching", "selecting", "testing")):
            after -= 1
        if after <= 0:
            break
    for number in (signal.SIGSTOP, *signals, signal.SIGCONT):
        os.kill(child.pid, number)
    said = child.stdout.read()
    child.stdout.close()
    return child.wait(), said


@pytest.mark.slow
def test_a_search_stopped_and_killed_at_any_phase_ends_like_an_undisturbed_one(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    assert stopped(zoo, environment, out, [signal.SIGUSR1], after=2)[0] == 138
    assert json.loads((out / "front.json").read_text())["state"] == "interrupted"
    assert (
        (out / "log.txt")
        .read_text(encoding="utf-8")
        .endswith("Z  stopped by a signal; the same command resumes\n")
    )
    assert stopped(zoo, environment, out, [signal.SIGKILL], after=3)[0] == -9
    code, said = stopped(zoo, environment, out, [signal.SIGHUP], after=6)
    assert code == 129
    assert "stopping: finishing running trials first" in said
    assert "Stopped. What was measured is in" in said
    assert Path(f"{out}.told").read_text() == "stopped\nstopped\n"
    done = run(zoo, environment, "search", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert content(out) == content(finished)


@pytest.mark.slow
def test_two_interrupts_stop_at_once_and_say_so(
    zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    signals = [signal.SIGINT, signal.SIGTERM]
    code, said = stopped(zoo, environment, tmp_path / "out", signals, after=1)
    assert code in (130, 143)  # whichever the system hands over last
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert not (tmp_path / "out.told").exists()
    assert log.splitlines()[-1].endswith("Z  stopped immediately; the same command resumes")
    assert "stopped immediately; run the same command to resume" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGXCPU])
def test_a_signal_while_a_search_is_prepared_stops_it_and_says_so(
    zoo: Path, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    child = subprocess.Popen(
        [*AUTOMERGE, "search", "--out", str(out)],
        cwd=zoo,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while child.poll() is None and not catches(child.pid, signal.SIGXCPU):
        time.sleep(0.001)
    os.kill(child.pid, number)
    _, said = child.communicate()
    assert child.returncode == 128 + number
    assert said == "automerge: stopped immediately; run the same command to resume\n"
    assert not out.exists()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--max-items", "700"), 2, "max_items is 700"),
        (("--device", "cuda"), 3, "sees no GPU"),
        (
            ("--executor", "ray", "--ray-address", "127.0.0.1:1"),
            6,
            "no Ray could be reached or started at 127.0.0.1:1: nobody listens there",
        ),
    ],
)
def test_a_refused_search_leaves_no_folder(
    zoo: Path,
    environment: dict[str, str],
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    out = tmp_path / "runs" / "out"
    hidden = {**environment, "CUDA_VISIBLE_DEVICES": ""}
    refused = run(zoo, hidden, "search", "--out", str(out), *options)
    assert refused.returncode == code, refused.stderr
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not out.exists()


@pytest.mark.slow  # ExecutorLaws hold Ray to the same law with workers that cost nothing
def test_one_ray_worker_makes_the_same_trials(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "ray"
    options = ("--executor", "ray", "--workers", "1", "--out", str(out), "--export", "none")
    done = run(zoo, environment, "search", *options)
    assert done.returncode == 0, done.stderr
    assert content(out) == content(finished)
    assert not (out / "models").exists()


@pytest.mark.slow
def test_a_raised_budget_extends_and_a_changed_seed_is_refused(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "extended"
    shutil.copytree(finished, out)
    refused = run(zoo, environment, "search", "--out", str(out), "--seed", "5")
    assert refused.returncode == 2
    assert "--seed: seed was 0" in refused.stderr
    done = run(zoo, environment, "search", "--out", str(out), "--budget", "11")
    assert done.returncode == 0, done.stderr
    with Store(out, write=False) as store, Store(finished, write=False) as before:
        assert store.counts()["measured"] == 11
        assert store.trials()[:9] == before.trials()
        old, new = before.outcomes("search"), store.outcomes("search")
        assert {n: new[n] for n in old} == old


@pytest.mark.slow
def test_scores_of_other_versions_are_told_apart(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out, other = tmp_path / "versions", tmp_path / "other" / "cma-99.0.dist-info"
    shutil.copytree(finished, out)
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: cma\nVersion: 99.0\n")
    changed = {**environment, "PYTHONPATH": f"{other.parent}{os.pathsep}{REPOSITORY}"}
    done = run(zoo, changed, "search", "--out", str(out), "--budget", "10", "--export", "none")
    assert done.returncode == 0, done.stderr
    with Store(finished, write=False) as store:
        n = len(store.measurements())
    said = f"versions changed after {n} measurements: cma {version('cma')}, now 99.0;"
    assert f"warning: {said}" in done.stdout
    assert "by items: none yet" in done.stdout
    (warning,) = (w for w in automerge.load_study(out).result.warnings if w.startswith(said))
    assert "by items: search: 9" in warning
    assert warning in html.unescape((out / "report.html").read_text())


@pytest.mark.slow
def test_a_search_asks_neither_wandb_nor_mlflow(
    zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Both are there, and fail as soon as anybody imports them."""
    trackers, asked = tmp_path / "trackers", tmp_path / "asked"
    trackers.mkdir()
    for name in ("wandb", "mlflow"):
        text = f"open({str(asked)!r}, 'a').write({name!r})\nraise RuntimeError({name!r})\n"
        (trackers / f"{name}.py").write_text(text)
    with_trackers = {**environment, "PYTHONPATH": f"{trackers}{os.pathsep}{REPOSITORY}"}
    options = ("--budget", "4", "--export", "none", "--out", str(tmp_path / "out"))
    done = run(zoo, with_trackers, "search", *options)
    assert done.returncode == 0, done.stderr
    assert not asked.exists()


def test_a_changed_model_is_refused_before_anything_is_measured(
    finished: Path, zoo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out, weights = tmp_path / "changed", zoo / "left" / "model.safetensors"
    shutil.copytree(finished, out)
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-4000] + bytes(4000))
        refused = run(zoo, environment, "search", "--out", str(out), "--budget", "11")
    finally:
        weights.write_bytes(before)
    assert refused.returncode == 2
    assert "models.left was" in refused.stderr
    assert "which holds another model" in refused.stderr
    assert measurements(out) == measurements(finished)


def test_the_library_searches_from_the_mapping_that_a_file_would_hold(
    zoo: Path, tmp_path: Path
) -> None:
    study = automerge.search(
        {
            "base": zoo / "base",
            "models": {"left": zoo / "left", "right": zoo / "right"},
            "tasks": ["choose"],
            "include_path": zoo / "tasks",
            "budget": 4,
            "evaluation": {"items_per_candidate": 20},
            "export": "none",
            "out": tmp_path / "out",
        }
    )
    assert study.result.state == "finished"
    assert {member.kind for member in study.members} == {"base", "parent", "baseline"}
    assert study.report.is_file()


def test_a_warm_start_measures_an_earlier_front_on_models_of_other_names(
    finished: Path, zoo: Path, tmp_path: Path
) -> None:
    before = automerge.load_study(finished)
    study = automerge.search(
        {
            "base": zoo / "base",
            "models": {"first": zoo / "left", "second": zoo / "right"},
            "tasks": ["say"],
            "include_path": zoo / "tasks",
            "warm_start": finished,
            "budget": 8,
            "evaluation": {"items_per_candidate": 20},
            "export": "none",
            "out": tmp_path / "out",
        }
    )
    trials = [found.trial for found in study.result.trials]
    names = {f"warm-{m.name}" for m in before.front if m.kind == "front"}
    warm = [trial for trial in trials if trial.name.startswith("warm-")]
    assert warm
    assert {trial.name for trial in warm} <= names
    assert {s.name for trial in warm for s in trial.recipe.sources} <= {"first", "second"}
    assert any("warm_start: " in warning for warning in study.result.warnings)


@pytest.mark.slow
def test_a_recipe_of_an_adapter_without_a_base_still_says_whose_it_is(
    finished: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    run_copy = tmp_path / "run"
    shutil.copytree(finished, run_copy)
    assert run(tmp_path, environment, "export", "run", "--trial", "3").returncode == 0
    recipe = run_copy / "models" / "adapter" / "recipe.yaml"
    done = run(tmp_path, environment, "merge", str(recipe), "--out", "again")
    assert done.returncode == 0, done.stderr
    merged = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert merged == (recipe.parent / "model.safetensors").read_bytes()
    recipe.write_text(recipe.read_text().replace("base:", "left:", 1))
    refused = run(tmp_path, environment, "merge", str(recipe), "--out", "more")
    assert refused.returncode in (2, 3)
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_properties_of_the_model_are_objectives_and_bounds_hold(
    zoo: Path, environment: dict[str, str]
) -> None:
    config = zoo / "close.yaml"
    text = (zoo / "automerge.yaml").read_text().replace("name: tiny", "name: close")
    text = text.replace("tasks: [choose,", "tasks: [{task: choose, goal: false},")
    (zoo / "plain.txt").write_text(phrase(random.Random(1), 30_000, 30_000))
    config.write_text(
        f"{text}properties: [distance_to_base, parameters, {{kl_to_base: plain.txt}}]\n"
        "constraints:\n"
        "  - distance_to_base <= 0.04\n  - choose >= best_parent - 0.5\nexport: none\n"
        "split: {search: 0.1, select: 0.8, test: 0.1}\nresolution: 0\n"
    )
    done = run(zoo, environment, "search", str(config))
    assert done.returncode == 0, done.stderr
    assert "constraint  distance_to_base <= 0.04" in done.stdout
    assert " block 2  " in done.stdout, "the test needs a selection in blocks"
    front = json.loads((zoo / "runs" / "close" / "front.json").read_text())
    schema = json.loads(
        (REPOSITORY / "automerge" / "report" / "front.schema.json").read_text(encoding="utf-8")
    )
    jsonschema.validate(front, schema)
    members = {member["name"]: member for member in front["members"]}
    assert members["base"]["scores"]["distance_to_base"]["test"]["value"] == 0
    moved = [m["scores"]["distance_to_base"]["test"]["value"] for m in members.values()]
    assert 0 < max(moved) < 1
    damage = {name: m["scores"]["kl_to_base"]["test"] for name, m in members.items()}
    assert damage["base"]["value"] == pytest.approx(0, abs=1e-6)
    assert all(own["value"] > 0.01 for name, own in damage.items() if name != "base")
    assert all(own["n"] > 8 for own in damage.values())
    assert len({m["scores"]["parameters"]["test"]["value"] for m in members.values()}) == 1
    for member in members.values():
        kept = {row["constraint"]: row for row in member["constraints"]}["distance_to_base <= 0.04"]
        assert (kept["verdict"] == "kept") == (kept["value"] <= 0.04)
        assert kept["verdict"] == "kept" or not member["on_front"]
    assert any(member["on_front"] for member in members.values())
    assert [o["goal"] for o in front["objectives"]] == [False, True, True, True, True]
    assert set(front["hypervolume"]["ideal"]) == {
        "say",
        "distance_to_base",
        "parameters",
        "kl_to_base",
    }
    assert "Constraints" in (zoo / "runs" / "close" / "report.html").read_text()
    wrong = run(zoo, environment, "search", str(config), "--constraint", "chose >= 1")
    assert wrong.returncode == 2
    assert "there is no objective 'chose'; did you mean 'choose'?" in wrong.stderr
