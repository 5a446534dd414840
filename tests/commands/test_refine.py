"""`automerge refine` as users run it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from automerge import cli
from automerge.config.recipe_file import read_recipe
from automerge.methods import METHODS
from automerge.refinement import numbers
from tests.command_line import AUTOMERGE, surroundings
from tests.refinement.zoo import RECIPE, write

SHORT = ("--length", "24", "--tokens", "300", "--steps", "5", "--device", "cpu")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def here(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipe, and links to the models and the text."""
    for entry in zoo.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["refine", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def ended(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0


def weights(path: Path) -> list[float]:
    recipe = read_recipe(path).recipe
    return [number.value for number in numbers(recipe, METHODS[recipe.method])]


def test_a_refined_recipe_is_better_on_text_held_back_and_can_be_merged(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--text", "text", "--loss", "nll", *SHORT)
    assert run("recipe.yaml", "--out", "better.yaml", "--export", "merged", *options) == 0
    said = capsys.readouterr().out
    assert "held-out text: −log p, in nats per token" in said
    assert "2 numbers moved; after step 5 of 5 the mean is -" in said
    assert "chance" not in said
    own, noise = weights(here / "better.yaml")
    assert noise < 0.45
    assert (here / "merged" / "model.safetensors").is_file()
    assert run("recipe.yaml", "--out", "again.yaml", *options) == 0
    assert weights(here / "again.yaml") == [own, noise]
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", "again.yaml", "--out", "by-hand"])
    assert ended.value.code == 0
    models = [(here / n / "model.safetensors").read_bytes() for n in ("merged", "by-hand")]
    assert models[0] == models[1]


def test_what_a_mixture_merges_is_refined(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = "mixture: {experts: [own, noise], per_token: 1, gates: random, layers: [1, 2]}\n"
    (here / "recipe.yaml").write_text(RECIPE + mixture)
    options = ("--text", "text", "--loss", "nll", *SHORT)
    assert run("recipe.yaml", "--out", "better.yaml", "--export", "merged", *options) == 0
    assert "2 numbers moved; after step 5 of 5 the mean is -" in capsys.readouterr().out
    _, noise = weights(here / "better.yaml")
    assert noise < 0.45
    before, after = (read_recipe(here / f"{n}.yaml").recipe.mixture for n in ("recipe", "better"))
    assert before == after
    assert '"mixtral"' in (here / "merged" / "config.json").read_text()


def test_what_pooled_experts_are_made_of_is_refined(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (first, second) in {"b": ("base", "own"), "o": ("own", "noise")}.items():
        models = f"{{{first}: ./{first}, {second}: ./{second}}}"
        (here / "moe.yaml").write_text(
            f"models: {models}\nmethod: linear\nsources: {{{first}: {{weight: 1}}}}\n"
            f"mixture: {{experts: [{first}, {second}], per_token: 1, gates: random}}\n"
        )
        ended(["merge", "moe.yaml", "--out", name])
    ended(["gather", "b", "o=o", "--kind", "routing", "--text", "text", "--tokens", "300"])
    evidence = capsys.readouterr().out.partition("evidence:")[2]
    (here / "recipe.yaml").write_text(
        "models: {base: ./b, o: ./o}\nmethod: task_arithmetic\nbase: base\n"
        "sources: {o: {weight: {expert: 0.9, default: 0.1}}}\n"
        f"experts: {{count: 1, by: routing}}\nevidence:{evidence}"
    )
    options = ("--text", "text", "--loss", "nll", *SHORT)
    assert run("recipe.yaml", "--out", "better.yaml", *options) == 0
    assert "2 numbers moved" in capsys.readouterr().out
    assert read_recipe(here / "better.yaml").recipe.experts is not None


def test_a_source_each_and_more_detail(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ("--text", "own=text", "--text", "text", "--detail", "per_layer")
    assert run("recipe.yaml", "--out", "better.yaml", *texts, *SHORT) == 0
    said = capsys.readouterr().out
    assert "KL divergence" in said
    assert len(weights(here / "better.yaml")) == 2 * (2 + 2 + 2 + 2)


def test_a_recipe_that_no_step_improves_stays_as_it_was(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "recipe.yaml").write_text(
        "models: {base: ./base, own: ./own}\nmethod: task_arithmetic\nbase: base\n"
        "sources: {own: {}}\n"
    )
    assert run("recipe.yaml", "--out", "same.yaml", "--text", "text", *SHORT) == 0
    assert "the recipe stays as it was" in capsys.readouterr().out
    assert read_recipe(here / "same.yaml").recipe == read_recipe(here / "recipe.yaml").recipe


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--text", "nothing.txt"], 2, "no such file or folder"),
        (["--text", "text", "--loss", "klm"], 2, "--loss: unknown 'klm'; did you mean 'kl'?"),
        (["--text", "text", "--detail", "layer"], 2, "--detail: unknown 'layer'"),
        (["--text", "text", "--rate", "0"], 2, "--rate: expected a number above 0"),
        (["--text", "own=text"], 2, "no text for noise: add --text NAME=PATH"),
        (["--text", "owm=text"], 2, "the recipe has no source 'owm'; did you mean 'own'?"),
        (["--text", "text", "--text", "text"], 2, "two texts have no name"),
        (["--text", "short.txt"], 3, "too few for 10 different sequences of 24"),
        (["--text", "text", "--out", "recipe.yaml"], 2, "is the recipe itself"),
        (["--text", "text", "--out", "no/where.yaml"], 2, "in a folder that exists"),
    ],
)
def test_what_cannot_be_refined_is_said_in_one_sentence(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    (here / "short.txt").write_text("w1 w2 w3 " * 40)
    before = sorted(here.iterdir())
    out = [] if "--out" in options else ["--out", "out.yaml"]
    assert run("recipe.yaml", *out, *SHORT, *options) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("slices: [{layers: {base: [0, 1], own: [0, 1], noise: [0, 1]}}]\n", "slices"),
        ("method: iso_cts\n", "iso_cts has no number with a slope"),
    ],
)
def test_recipes_without_slopes_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    text = RECIPE.replace("method: task_arithmetic\n", "") if "method" in more else RECIPE
    (here / "recipe.yaml").write_text(text + more)
    assert run("recipe.yaml", "--text", "text", "--out", "out.yaml", *SHORT) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_the_best_so_far(here: Path) -> None:
    endless = ("--steps", "100000", "--rate", "0.2", "--loss", "nll", "--text", "text")
    arguments = ("refine", "recipe.yaml", "--out", "best.yaml", *SHORT, *endless)
    with subprocess.Popen(
        [*AUTOMERGE, *arguments],
        cwd=here,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("step 1/100000")
        running.send_signal(signal.SIGINT)
        said, error = running.communicate()
    assert running.returncode == 130, error
    assert "stopping after this step" in said
    assert "wrote best.yaml" in said
    assert weights(here / "best.yaml") != [0.5, 0.5]
