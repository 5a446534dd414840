"""KL(base ‖ merged), compared with a naive computation, item by item, in double precision."""

from __future__ import annotations

import json
import math
import random
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.checkpoints import whole_digest
from automerge.errors import PreflightError
from automerge.evaluation.base import Entry, Live, NoRoom, Settings
from automerge.evaluation.divergence import scorer as module
from automerge.evaluation.divergence.passages import MAX_PASSAGES, PASSAGE, passages
from automerge.evaluation.divergence.scorer import DivergenceScorer, divergence
from automerge.evaluation.divergence.states import KeptStates
from automerge.evaluation.guards import InvalidOutput
from automerge.evaluation.panel import Panel
from automerge.evaluation.split import SplitPlan, split_documents
from automerge.objective import estimate
from automerge.recipe import Profile, Recipe, RecipeSource, Slice
from automerge.trial import PARTS, Job, Measured, Steering
from automerge.worker.worker import MergeWorker, WorkerSpec
from tests.evaluation.toys import make_model, make_tokenizer
from tests.zoo import write_zoo

RNG = random.Random(5)
PIECES = [tuple(RNG.randrange(72) for _ in range(RNG.randint(1, 40))) for _ in range(12)]
MEMBERS = {"kl": ("text",)}
ITEMS = {"text": (3, 0, 7, 11, 5)}


def live_pair(architecture: str, graph_bytes: int | None = None):
    """A model whose base is another with the same shapes."""
    model, base = make_model(architecture, 1), make_model(architecture, 2)
    model.requires_grad_(False)

    @contextmanager
    def entered():
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(base.state_dict())
        yield
        model.load_state_dict(before)

    return Live(model, make_tokenizer(), lambda: math.nan, entered, graph_bytes), base


def scorer_of(live: Live, batch_size: int = 3) -> DivergenceScorer:
    return DivergenceScorer(live, MEMBERS, {"kl": lambda _, i: PIECES[i]}, batch_size)


@torch.no_grad()
def naive(base, model, piece) -> float:
    """Σ over positions of Σ p log(p / q), one sequence at a time, from the models' own logits."""
    ids = torch.tensor([piece])
    p, q = (m(input_ids=ids).logits[0].double().log_softmax(-1) for m in (base, model))
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox", "mamba"])
def test_scores_are_the_naive_sums(architecture):
    live, base = live_pair(architecture)
    scored = scorer_of(live).score(ITEMS)
    scores = scored.scores["kl"]
    assert scores.items == tuple(("text", i) for i in ITEMS["text"])
    assert scores.weights == tuple(float(len(PIECES[i])) for i in ITEMS["text"])
    expected = [naive(base, live.model, PIECES[i]) for i in ITEMS["text"]]
    assert min(expected) > 0.1
    # Logits of about 10 in single precision are off by 1e-6, times up to 40 positions.
    assert scores.values == pytest.approx(expected, rel=1e-4, abs=1e-4)
    found = estimate(scores, "ratio").value
    assert found == pytest.approx(sum(expected) / sum(scores.weights or ()), rel=1e-4)


def test_what_an_architecture_does_after_its_head_is_done_to_both():
    live, base = live_pair("gemma2")
    assert live.model.config.final_logit_softcapping
    for model in (live.model, base):
        model.config.final_logit_softcapping = 0.5  # so that forgetting it is seen
    [value] = scorer_of(live).score({"text": (3,)}).scores["kl"].values
    assert value == pytest.approx(naive(base, live.model, PIECES[3]), rel=1e-4)


def test_the_base_is_run_once_per_item_and_diverges_from_itself_by_nothing():
    live, base = live_pair("llama")
    scorer = scorer_of(live)
    first, again = scorer.score(ITEMS), scorer.score(ITEMS)
    tokens = sum(len(PIECES[i]) for i in ITEMS["text"])
    assert (first.tokens, again.tokens) == (2 * tokens, tokens)
    assert first.scores == again.scores
    live.model.load_state_dict(base.state_dict())
    same = scorer.score(ITEMS).scores["kl"].values
    assert same == pytest.approx([0.0] * len(same), abs=1e-6)


def test_tokens_that_cannot_follow_count_as_nothing():
    base = torch.tensor([[0.0, 1.0, -math.inf]])
    merged = torch.tensor([[1.0, 0.0, -math.inf]])
    p = torch.tensor([0.0, 1.0]).softmax(0)
    expected = float((p * torch.tensor([-1.0, 1.0])).sum())
    assert float(divergence(base, merged)) == pytest.approx(expected, rel=1e-6)


def test_broken_weights_are_refused():
    live, _ = live_pair("llama")
    scorer = scorer_of(live)
    live.model.get_output_embeddings().weight[5, 5] = math.nan
    with pytest.raises(InvalidOutput, match="divergence from the base not finite at"):
        scorer.score(ITEMS)


@pytest.mark.parametrize("kind", ["another function", "none"])
def test_a_head_that_is_not_linear_is_refused(kind, monkeypatch):
    live, _ = live_pair("llama")
    head = live.model.get_output_embeddings()
    if kind == "none":
        monkeypatch.setattr(live.model, "get_output_embeddings", lambda: None)
    else:
        monkeypatch.setattr(
            head, "forward", lambda x: torch.nn.functional.linear(x, head.weight).abs()
        )
    with pytest.raises(PreflightError, match="cannot be measured on a LlamaForCausalLM"):
        scorer_of(live)


def slopes(live: Live) -> tuple[dict, list[float]]:
    """Losses and the gradient of the first layer's weights, and how many parts it came in."""
    weight = live.model.get_input_embeddings().weight.requires_grad_(True)
    parts = []
    scorer = scorer_of(live, 100)
    scored = scorer.score_with_slopes(
        ITEMS, {}, lambda name, loss, keep: parts.append(torch.autograd.grad(loss, weight)[0])
    )
    weight.requires_grad_(False)
    total = torch.stack(parts).sum(0)
    return dict(scored.losses), [len(parts), *total[::9, ::7].flatten().tolist()]


def test_slopes_do_not_depend_on_the_room_for_them(monkeypatch):
    monkeypatch.setattr(module, "MIN_TOKENS", 2**10)
    losses, (parts, *gradient) = slopes(live_pair("llama")[0])
    assert parts == 1
    smaller, counts = 2**22, []
    while True:
        try:
            own, (count, *found) = slopes(live_pair("llama", smaller)[0])
        except NoRoom:
            break
        assert own == pytest.approx(losses, rel=1e-5)
        assert found == pytest.approx(gradient, rel=1e-3, abs=1e-6)
        counts.append(count)
        smaller //= 2
    assert counts == sorted(counts)
    assert counts[-1] > 1


def test_kept_states_are_those_that_were_put_there():
    kept, made = KeptStates(), {}
    for i, dtype in enumerate((torch.bfloat16, torch.float32, torch.float16, torch.bfloat16)):
        made[i] = torch.randn(i + 1, 5).to(dtype)
        kept[i] = made[i]
        assert torch.equal(kept[0], made[0])  # reading does not move where the next is written
    assert all(torch.equal(kept[i], tensor) for i, tensor in made.items())
    assert 1 in kept
    assert 9 not in kept


@given(st.lists(st.text("ab \n", max_size=3 * PASSAGE), max_size=3))
@settings(max_examples=60)
def test_passages_lose_nothing_but_white_space(documents):
    found = passages(documents)
    joined = "".join("".join(documents).split())
    assert "".join("".join(found).split()) == joined
    assert all(0 < len(passage) <= PASSAGE for passage in found)


def test_a_long_text_is_read_at_all_its_length():
    text = "\n".join(f"line {i:06d} {'x' * 500}" for i in range(3 * MAX_PASSAGES))
    found = passages([text])
    assert len(found) == MAX_PASSAGES
    numbers = [int(passage[5:11]) for passage in found]
    assert numbers[0] == 0
    assert {b - a for a, b in pairwise(numbers)} == {3}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


def prompts_panel(folder) -> Panel:
    tasks = tuple(
        Entry("lm_eval", name, name, options={"num_fewshot": 0}) for name in ("choose", "say")
    )
    kl = Entry("divergence", "kl_to_base", "kl_to_base", options={"tasks": tasks})
    return Panel((*tasks, kl), Settings(folder / "tasks"))


def test_prompts_are_in_the_part_of_their_documents(zoo, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    tasks = prompts_panel(zoo).open(zoo / "here", keep=True)
    split = split_documents(tasks.documents(), tasks.members, SplitPlan())
    assert tasks.members["kl_to_base"] == ("kl_to_base:choose", "kl_to_base:say")
    for part in PARTS:
        items = split.items(part)
        assert items["kl_to_base:choose"] == items["choose"] != ()


def test_a_worker_compares_merges_with_the_base_whatever_it_held(zoo, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    names = ("base", "left", "right")
    spec = WorkerSpec(
        models={name: zoo / name for name in names},
        digests={name: whole_digest(zoo / name) for name in names},
        base="base",
        panel=prompts_panel(zoo),
        run=zoo,
        dtype="float32",
        device="cpu",
        methods=("linear",),
        more_layers=1,
        slopes=True,
    )
    worker = MergeWorker(spec)
    items = {"choose": (0,), "say": (), "kl_to_base:choose": (1, 2), "kl_to_base:say": (4,)}
    sources = tuple(
        RecipeSource(n, {"weight": Profile.of(w)}) for n, w in (("left", 0.4), ("right", 0.6))
    )
    plain = Recipe("linear", sources)
    slices = tuple(Slice({"left": span, "right": span}) for span in ((0, 2), (1, 2)))
    deep = Recipe("linear", sources, slices=slices)
    outcomes = [
        worker.measure(Job(i, recipe, "test", items, steering=steering))
        for i, (recipe, steering) in enumerate([(deep, None), (plain, None), (plain, Steering())])
    ]
    assert all(isinstance(outcome, Measured) for outcome in outcomes), outcomes
    deeper, once, sloped = outcomes
    base, merged = make_model("llama", 0), worker._model
    tokenizer = make_tokenizer()
    lines = (zoo / "tasks" / "choose.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    prompts = [f"Q : {rows[i]['question']} A :" for i in (1, 2)]
    expected = [naive(base, merged, tokenizer(text).input_ids) for text in prompts]
    assert once.scores["kl_to_base"].values[:2] == pytest.approx(expected, rel=1e-3)
    assert sloped.scores["kl_to_base"].values == pytest.approx(
        once.scores["kl_to_base"].values, rel=1e-4
    )
    assert once.weights == sloped.weights  # the base was there in between
    assert deeper.scores["kl_to_base"].values != once.scores["kl_to_base"].values
    assert sloped.slopes["kl_to_base"].loss == pytest.approx(
        estimate(once.scores["kl_to_base"], "ratio").value, rel=1e-4
    )
    assert any(sloped.slopes["kl_to_base"].by.values())
