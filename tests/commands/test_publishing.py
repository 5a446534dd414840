"""A merge of hub models goes to a hub, and is made again from there, bit for bit."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from automerge import cli
from automerge.commands.chat import Chat, _Speaker, chat
from automerge.commands.menu import menu
from automerge.errors import ConfigError
from automerge.report.choice import choose
from automerge.report.study import load_study
from automerge.session.warm import warm_start
from automerge.store.published import FILE, read_published
from automerge.text.terminal import Plain
from tests.command_line import surroundings
from tests.hub import TOKEN, Hub, serving
from tests.zoo import write_zoo

pytestmark = pytest.mark.slow

CHILD = """
import contextlib, io, json, os, sys
from automerge import cli

done = []
for words in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = words.pop(0)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(words)
        except SystemExit as ended:
            code = ended.code
    done.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""
MODELS = ("base", "left", "right", "adapter")


@dataclass(frozen=True)
class Done:
    hub: Hub
    place: Path
    run: Path
    answers: list[tuple[int, str, str]]


def commands(place: Path, hub: Hub, lines: list[list[str]]) -> list[tuple[int, str, str]]:
    """Run commands in one process whose hub is ours, each with the token at its beginning."""
    plain = {k: v for k, v in surroundings().items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(place / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(lines)],
        env={**plain, **own, "XDG_CACHE_HOME": str(place / "cache")},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A study of models of a hub, one of them local, whose best merge was pushed."""
    place = tmp_path_factory.mktemp("place")
    config = write_zoo(place)
    with serving() as hub:
        text = config.read_text()
        for name in MODELS:
            if name != "base":
                hub.add(f"org/{name}", place / name)
                text = text.replace(f": ./{name}", f": org/{name}")
        hub.add("org/public", place / "base")
        config.write_text(text)
        run = place / "runs" / "tiny"
        push = ["push", str(run), "me/merged"]
        answers = commands(
            place,
            hub,
            [
                ["", "search", "--export", "none"],
                ["", *push],
                [TOKEN, *push, "--store"],
                [TOKEN, "push", str(run), "org/public"],
                [TOKEN, "push", str(run), "no-owner"],
            ],
        )
        yield Done(hub, place, run, answers)


def read_text_recipe(text: bytes) -> set[str]:
    """The models that a published recipe names."""
    return set(yaml.safe_load(text)["models"])


def best(run: Path) -> str:
    found = choose(load_study(run).summary)
    assert found is not None
    return found.name


def test_a_pushed_merge_is_private_and_has_what_others_need(done: Done) -> None:
    searched, refused, pushed, public, nobody = done.answers
    assert searched[0] == 0, searched[2]
    assert refused[0] == 3
    assert "hf auth login" in refused[2]
    assert pushed[0] == 0, pushed[2]
    assert pushed[1].splitlines()[-1] == f"{done.hub.url}/me/merged"
    assert (public[0], nobody[0]) == (2, 2)
    assert "org/public already exists and is public; pass --public" in public[2]
    assert "expected ORG/NAME" in nobody[2]
    found = done.hub.repositories["me/merged"]
    assert found.private
    folder = done.run / "models" / best(done.run)
    exported = {path.name for path in folder.iterdir()}
    assert set(found.files) == exported | {FILE, "automerge.yaml", "study.sqlite"}
    for name in exported - {"README.md", "recipe.yaml", "mergekit.yaml"}:
        assert found.files[name] == (folder / name).read_bytes(), name
    for name, data in found.files.items():
        assert str(done.place).encode() not in data, name
        assert TOKEN.encode() not in data, name
        assert b"../base" not in data or name == "study.sqlite", name
    card = ModelCard(found.files["README.md"].decode())
    used = read_text_recipe(found.files["recipe.yaml"])
    assert set(card.data.base_model) == {f"org/{name}" for name in used - {"base"}}
    assert "from_pretrained('me/merged')" in card.text
    assert "automerge reproduce merged/reproduce.json" in card.text
    assert "95 % interval" in card.text
    study = yaml.safe_load(found.files["automerge.yaml"])
    assert study["models"]["left"] == f"org/left@{done.hub.repositories['org/left'].sha}"
    assert study["base"].startswith("local:base@")
    assert "out" not in study


def test_it_is_made_again_from_the_hub_bit_for_bit(done: Done, tmp_path: Path) -> None:
    pushed = done.hub.repositories["me/merged"]
    (tmp_path / FILE).write_bytes(pushed.files[FILE])
    right = f"--model=base={done.place / 'base'}"
    wrong = f"--model=base={done.place / 'right'}"
    lost, other, made = commands(
        tmp_path,
        done.hub,
        [
            ["", "reproduce", FILE, "--out", "lost"],
            ["", "reproduce", FILE, "--out", "other", wrong],
            ["", "reproduce", FILE, "--out", "again", right],
        ],
    )
    assert lost[0] == 3
    assert "--model base=FOLDER" in lost[2]
    assert other[0] == 3
    assert "is not the one that" in other[2]
    assert made[0] == 0, made[2]
    assert "bit for bit" in made[1]
    assert sorted(p.name for p in tmp_path.iterdir() if "ot" in p.name or "lost" in p.name) == []
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == pushed.files[name], name


def test_a_search_can_begin_with_it(done: Done, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(done.hub.repositories["me/merged"].files[FILE])
    found = read_published(path)
    digests = {"base": "", **{f"my-{m.name}": m.digest for m in found.models}}
    digests["base"] = digests.pop("my-base")
    warm = warm_start(path, digests, 3)
    [recipe] = warm.recipes.values()
    assert {source.name for source in recipe.sources} == {
        name if name == "base" else f"my-{name}"
        for name in (source.name for source in found.recipe.sources)
    }
    with pytest.raises(ConfigError, match="can be made of these models"):
        warm_start(path, {"base": "another"}, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reproduce": 2}, "version 1: reproduce"),
        ({"recipe": {"method": "linear"}}, "recipe.sources"),
        ({"models": []}, "models"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_strangers_file_is_checked(
    change: dict[str, object], says: str, done: Done, tmp_path: Path
) -> None:
    plain = json.loads(done.hub.repositories["me/merged"].files[FILE])
    path = tmp_path / FILE
    path.write_text(json.dumps({**plain, **change}))
    with pytest.raises(ConfigError, match=says):
        read_published(path)


def test_one_talks_to_a_merge_beside_a_parent(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through a pipe; the merge was exported, and the parent is made for the talk."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("red cat\n\nblue\n"))
    words = ["chat", str(done.run), "--beside", "right", "--max-tokens", "3"]
    words += [f"--model={name}={done.place / name}" for name in MODELS]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    name = best(done.run)
    assert [line.partition(":")[0] for line in lines] == [name, "right", name, "right"]
    file = io.StringIO()
    with pytest.raises(ConfigError, match="expected best_parent, none or one of"):
        chat(Chat(done.run, beside="nobody"), Plain(file=file), iter(()))


def test_the_menu_does_what_is_chosen_until_one_quits(done: Done) -> None:
    file = io.StringIO()
    name = best(done.run)
    typed = iter(["x", "s", name, "s", "trial-99", "q"])
    menu(done.run, Plain(file=file, width=200), lambda prompt: next(typed))
    text = file.getvalue()
    assert str(done.run / "models" / name) in text
    assert "has no trial trial-99" in text
    assert list(typed) == []

    def gone(prompt: str) -> str:
        raise EOFError

    menu(done.run, Plain(file=file), gone)


def test_a_chat_template_makes_a_conversation(done: Done, tmp_path: Path) -> None:
    """The second prompt repeats what was said before, in the template's words."""
    folder = shutil.copytree(done.run / "models" / best(done.run), tmp_path / "talker")
    template = "{% for m in messages %}{{ m.role }} : {{ m.content }} . {% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    speaker = _Speaker("talker", folder, 2)
    assert speaker.has_template
    first = speaker.reply("red cat")
    speaker.reply("blue")
    assert [m["role"] for m in speaker._said] == ["user", "assistant"] * 2
    assert speaker._said[1]["content"].strip() == first
    (folder / "chat_template.jinja").unlink()
    plain = _Speaker("plain", folder, 2)
    assert not plain.has_template
    assert plain.reply("red cat") == plain.reply("red cat")
