"""Studies made up for the tests: item scores drawn from models with known skills."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from automerge.objective import Estimate, ItemScores, Objective, estimate
from automerge.recipe import Profile, Recipe, RecipeSource, single, uniform_average
from automerge.store.result import ModelOrigin, Provenance, StudyResult, TrialResult
from automerge.trial import Failed, Measured, Outcome, Part, Timings, Trial

OBJECTIVES = (
    Objective("maths", "gsm8k", "exact_match", "strict-match", "maximize"),
    Objective("code", "mbpp", "pass_at_1", "none", "maximize"),
    Objective("german", "xquad_de", "acc", "none", "maximize"),
    Objective("safety", "toxigen", "acc_norm", "none", "maximize"),
)
PERPLEXITY = Objective(
    "wikitext", "wikitext", "word_perplexity", "none", "minimize", "weighted_perplexity"
)
SOURCES = ("maths-expert", "code-expert", "german-expert")
SIZES: Mapping[Part, int] = {"search": 120, "select": 250, "test": 600}
N_LAYERS = 24


def study(
    objectives: Sequence[Objective] = OBJECTIVES,
    n_trials: int = 60,
    seed: int = 7,
    failures: bool = True,
    name: str = "three experts, four tasks",
    sources: Sequence[str] = SOURCES,
) -> StudyResult:
    """A finished study: base, sources and uniform average, then `n_trials` searched merges."""
    rng = np.random.default_rng(seed)
    maker = _Maker(objectives, tuple(sources), rng)
    weights = [
        np.zeros(len(sources)),
        *np.eye(len(sources)),
        np.full(len(sources), 1 / len(sources)),
    ]
    recipes = [single("base"), *map(single, sources), uniform_average(sources)]
    names = ["base", *sources, "uniform"]
    origins = ["base", *["source"] * len(sources), "uniform"]
    trials = [
        maker.measured(Trial(number, recipe, origin, name), w)
        for number, (recipe, origin, name, w) in enumerate(
            zip(recipes, origins, names, weights, strict=True)
        )
    ]
    parents = tuple(range(1, len(sources) + 1))
    for _ in range(n_trials):
        trials.append(maker.searched(len(trials), failures))
    front = _front(objectives, trials)
    special = {0, *parents, len(sources) + 1}
    trials = [
        maker.tested(t)
        if t.trial.number in special
        else replace(maker.tested(t), model_dir=f"models/{t.trial.name}")
        if t.trial.number in front
        else t
        for t in trials
    ]
    return StudyResult(
        study=name,
        state="finished",
        objectives=tuple(objectives),
        trials=tuple(trials),
        front=front,
        knee=front[len(front) // 2] if front else None,
        base=0,
        parents=parents,
        uniform=len(sources) + 1,
        sources=tuple(sources),
        n_layers=N_LAYERS,
        sampler="gp",
        seed=seed,
        budget=n_trials,
        provenance=provenance(sources, objectives),
        warnings=(
            "Objective 'safety': 3 % of the items were longer than the context and were cut.",
        ),
    )


def provenance(sources: Sequence[str], objectives: Sequence[Objective]) -> Provenance:
    """Where the made-up study came from."""
    licenses = ["apache-2.0", "llama3.2", "apache-2.0", "cc-by-nc-4.0"]
    return Provenance(
        versions={"automerge": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        models=tuple(
            ModelOrigin(name, f"acme/{name}", "3f1c9e0a77d2", "sha256:9b1d5c", license)
            for name, license in zip(("base", *sources), licenses, strict=False)
        ),
        tasks={o.task: f"sha256:{o.name:0<12}" for o in objectives},
        machine="one NVIDIA H100 80GB, 16 cores, Linux 6.8",
        started="2026-11-20T21:04:11+00:00",
        finished="2026-11-21T05:48:37+00:00",
        command="automerge search study.yaml --budget 60 --seed 7",
        score_commands=(
            ("lm_eval", "run", "--model", "hf", "--model_args", "pretrained=MODEL,dtype=bfloat16"),
        ),
    )


def running(result: StudyResult) -> StudyResult:
    """The same study before selection: search items only, no front."""
    trials = tuple(
        replace(t, outcomes={k: v for k, v in t.outcomes.items() if k == "search"}, model_dir=None)
        for t in result.trials
    )
    provenance = replace(result.provenance, finished=None)
    return replace(
        result, state="running", trials=trials, front=(), knee=None, provenance=provenance
    )


def all_failed(result: StudyResult) -> StudyResult:
    """The same study with every measurement failed."""
    failed = Failed("error", "task 'gsm8k' raised KeyError: 'answer'", "Traceback: …")
    trials = tuple(
        replace(t, outcomes={"search": failed}, believed={}, model_dir=None) for t in result.trials
    )
    return replace(result, state="failed", trials=trials, front=(), knee=None)


def empty(result: StudyResult) -> StudyResult:
    """A study with a budget of nothing."""
    return replace(
        result,
        state="finished",
        trials=(),
        front=(),
        knee=None,
        base=None,
        parents=(),
        uniform=None,
        budget=0,
    )


class _Maker:
    """Draws items once, with difficulties, then scores for models by their weights."""

    def __init__(
        self, objectives: Sequence[Objective], sources: tuple[str, ...], rng: np.random.Generator
    ) -> None:
        self.objectives = objectives
        self.sources = sources
        self.rng = rng
        sizes = sum(SIZES.values())
        self.difficulty = {o.name: rng.normal(0, 1.3, sizes) for o in objectives}
        self.weights: dict[int, np.ndarray] = {}
        self.words = rng.integers(40, 400, sizes).astype(float)

    def searched(self, number: int, failures: bool) -> TrialResult:
        k = len(self.sources)
        weights = (
            self.rng.uniform(0, 1.1, k) if number % 3 else self.rng.dirichlet(np.ones(k)) * 1.6
        )
        slope = self.rng.uniform(-0.4, 0.4, k)
        method = ("ties", "dare_ties", "task_arithmetic")[number % 3]
        density = float(self.rng.uniform(0.2, 1))
        recipe = Recipe(
            method,
            tuple(
                RecipeSource(
                    name,
                    {
                        "weight": Profile.of(
                            {
                                "attention": [w + s, w, w - s],
                                "mlp": [w - s / 2, w + s / 3, w + s],
                                "default": w,
                            }
                        ),
                        **({} if method == "task_arithmetic" else {"density": Profile.of(density)}),
                    },
                )
                for name, w, s in zip(self.sources, weights.tolist(), slope.tolist(), strict=True)
            ),
            base="base",
            seed=number if method == "dare_ties" else 0,
        )
        params: dict[str, float | str] = {"method": method}
        for name, w, s in zip(self.sources, weights.tolist(), slope.tolist(), strict=True):
            params |= {f"{name}.weight": w, f"{name}.weight.slope": s}
        if method != "task_arithmetic":
            params["density"] = density
        trial = Trial(number, recipe, "gp", f"t{number:03d}", params)
        if failures and number % 13 == 0:
            reason = "merged tensor model.layers.3.mlp.up_proj.weight is not finite"
            return TrialResult(trial, {"search": Failed("invalid", reason, "Traceback…\n  merge")})
        return self.measured(trial, weights)

    def measured(self, trial: Trial, weights: np.ndarray) -> TrialResult:
        self.weights[trial.number] = weights
        skill = self._skills(weights)
        outcomes: dict[Part, Outcome] = {"search": self._outcome("search", skill)}
        search = outcomes["search"]
        assert isinstance(search, Measured)
        believed = {
            o.name: self._believe(estimate(search.scores[o.name], o.aggregation))
            for o in self.objectives
        }
        return TrialResult(trial, outcomes, believed)

    def tested(self, result: TrialResult) -> TrialResult:
        skill = self._skills(self.weights[result.trial.number])
        parts: dict[Part, Outcome] = {p: self._outcome(p, skill) for p in ("select", "test")}
        return replace(result, outcomes={**result.outcomes, **parts})

    def _believe(self, plain: Estimate) -> Estimate:
        return Estimate(plain.value, plain.stderr * 0.6, plain.n)

    def _skills(self, weights: np.ndarray) -> list[float]:
        """One skill an objective: its own expert helps, a too large sum of weights hurts."""
        excess = max(0.0, float(weights.sum()) - 1.2)
        skills = []
        for row in range(len(self.objectives)):
            own = float(weights[row % len(weights)])
            others = float(weights.sum()) - own
            gain = 1.4 * math.tanh(1.6 * own) + 0.15 * others
            skills.append(gain - 0.7 * excess - (0.6 * others if row == 3 else 0.0))
        return skills

    def _outcome(self, part: Part, skill: Sequence[float]) -> Measured:
        start = {"search": 0, "select": SIZES["search"], "test": SIZES["search"] + SIZES["select"]}
        rows = np.arange(start[part], start[part] + SIZES[part])
        scores = {}
        for o, level in zip(self.objectives, skill, strict=True):
            noise = self.rng.normal(0, 0.35, len(rows))
            margin = level - 0.4 - self.difficulty[o.name][rows] + noise
            items = tuple((o.task, int(row)) for row in rows)
            if o.aggregation == "mean":
                scores[o.name] = ItemScores(items, tuple((margin > 0).astype(float).tolist()))
            else:
                words = self.words[rows]
                loglik = -words * (
                    2.4 - 0.2 * level + 0.1 * self.difficulty[o.name][rows] + 0.1 * noise
                )
                scores[o.name] = ItemScores(items, tuple(loglik.tolist()), tuple(words.tolist()))
        forward = float(self.rng.gamma(30, 0.3)) * SIZES[part] / 120
        timings = Timings(merge=1.8, forward=forward, score=0.4, total=forward + 2.9)
        return Measured(scores, timings, tokens=41_000)


def _front(objectives: Sequence[Objective], trials: Sequence[TrialResult]) -> tuple[int, ...]:
    """Up to six searched trials that no other dominates, by what the search believed."""
    known = [t for t in trials if t.believed and t.trial.params is not None]
    losses = np.array([[o.loss(t.believed[o.name].value) for o in objectives] for t in known])
    keep = [
        t
        for t, row in zip(known, losses, strict=True)
        if not np.any((losses <= row).all(axis=1) & (losses < row).any(axis=1))
    ]
    ranked = sorted(keep, key=lambda t: sum(o.loss(t.believed[o.name].value) for o in objectives))
    return tuple(sorted(t.trial.number for t in ranked[:6]))
