"""The model card of an exported model: its recipe and its test scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from automerge.estimation import Interval
from automerge.objective import Objective
from automerge.public_benchmarks import benchmark
from automerge.report.choice import choose
from automerge.report.commands import score_commands
from automerge.report.compare import Versus, verdict
from automerge.report.loading import loading
from automerge.report.model_sections import recipe_yaml
from automerge.report.summary import Member, Summary
from automerge.store.result import MODELS, ModelOrigin, StudyResult, count
from automerge.text.json_number import finite
from automerge.text.redaction import redact

FILE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$&:@])")


def model_card(
    summary: Summary,
    number: int,
    name: str,
    repository: str | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the README.md of a model; texts of the study are escaped.

    Args:
        summary: a summary that the trial is a member of.
        number: the number of the model's trial.
        name: the name of the model.
        repository: where on the hub it is published, with the study's files beside it; None for a
            folder of the run.
        config: the content of the model's config.json, which says how it is loaded.

    Raises:
        ValueError: the trial is not a member of the summary.
    """
    result = summary.result
    member = next((m for m in summary.members if m.trial.trial.number == number), None)
    if member is None:
        raise ValueError(f"trial {number} of {result.study!r} was not summarised")
    origins = _origins(result, member)
    how = loading(config)
    sections = (
        _introduction(summary, member, name),
        _use(repository or f"{MODELS}/{name}", repository is not None, how.loader),
        _scores(summary, member),
        _optimised_for(result),
        _models(origins),
        ("## Recipe", _fence(_recipe(member, origins), "yaml")),
        _reproduce(result, name) if repository is None else _published(result, repository),
    )
    body = "\n\n".join(paragraph for section in sections for paragraph in section if paragraph)
    head = _data(result, member, origins, name, how.task).to_yaml()
    card = ModelCard(f"---\n{head}\n---\n\n{body}\n", ignore_metadata_errors=True)
    return redact(str(card))


def _origins(result: StudyResult, member: Member) -> list[ModelOrigin]:
    known = {origin.name: origin for origin in result.provenance.models}
    return [
        known.get(model, ModelOrigin(model, model)) for model in member.trial.trial.recipe.models
    ]


def _data(
    result: StudyResult, member: Member, origins: Sequence[ModelOrigin], name: str, task: str
) -> ModelCardData:
    results = [
        EvalResult(
            task_type=task,
            dataset_type=o.task,
            dataset_name=f"{o.task}, sealed test items",
            dataset_args={"items": test.n},
            metric_type=o.metric,
            metric_name=f"{o.metric},{o.filter}",
            metric_value=test.value,
            metric_args={"low": finite(test.low), "high": finite(test.high)},
        )
        for o, test in _tests(result.objectives, member)
        if not o.is_exact
    ]
    license, license_name = _license(origins)
    return ModelCardData(
        base_model=[o.path for o in origins if _HUB_ID.fullmatch(o.path)] or None,
        base_model_relation="merge",
        library_name="transformers",
        license=license,
        license_name=license_name,
        model_name=name,
        eval_results=results or None,
        tags=["merge", "automerge", *member.trial.trial.recipe.all_methods],
    )


def _license(origins: Sequence[ModelOrigin]) -> tuple[str | None, str | None]:
    licenses = {origin.license for origin in origins}
    if None in licenses:
        return None, None
    if len(licenses) == 1:
        return origins[0].license, None
    return "other", "-and-".join(dict.fromkeys(str(origin.license) for origin in origins))


def _tests(objectives: Iterable[Objective], member: Member) -> list[tuple[Objective, Interval]]:
    found = ((o, member.scores[o.name]["test"]) for o in objectives)
    return [(o, test) for o, test in found if test is not None]


def _introduction(summary: Summary, member: Member, name: str) -> tuple[str, ...]:
    result = summary.result
    recipe = member.trial.trial.recipe
    sources = ", ".join(escape(source.name) for source in recipe.sources)
    base = f" on {escape(recipe.base)}" if recipe.base else ""
    chosen = (
        f"It is one of {count(len(summary.front), 'merge')} on the front, chosen from "
        f"{len(result.trials)} that were tried."
        if member.on_front
        else f"It is not on the front of the study, which tried {len(result.trials)} models."
    )
    found = choose(summary)
    advice = escape(found.sentence) if found is not None and found.name == member.name else ""
    return (
        f"# {escape(name)}",
        advice,
        f"A merge of {sources}{base} by {escape(recipe.methods_in_words)}, found by automerge as "
        f"{escape(member.name)} of the study *{escape(result.study)}*. {chosen}",
    )


def _scores(summary: Summary, member: Member) -> tuple[str, ...]:
    tests = _tests(summary.result.objectives, member)
    if not tests:
        return ("## Scores", "The sealed test items were not scored, so nothing is claimed.")
    head = (
        "objective",
        "test score",
        "95 % interval",
        "items",
        "against the best parent",
        "against the uniform average",
        "the search believed",
    )
    rows = [_score_row(summary, member, o, test) for o, test in tests]
    return (
        "## Scores",
        _table(head, rows),
        _verdicts(summary, member, [o for o, _ in tests]),
        "Test scores are on items that neither the search nor the selection saw. Differences are "
        "paired over the same items, with individual 95 % intervals; they are **bold** if the "
        "interval excludes zero. The best parent for an objective is the best of the parents "
        "and the base on other items. What the search believed was measured on the items that "
        "it chose by: it is optimistic and not a result.",
        _optimism(summary),
    )


def _score_row(
    summary: Summary, member: Member, objective: Objective, test: Interval
) -> tuple[str, ...]:
    unit = summary.units[objective.name]
    percent = " %" if unit.percent else ""
    lower = " (lower is better)" if objective.direction == "minimize" else ""
    search = member.scores[objective.name]["search"]
    return (
        f"{escape(objective.name)}{lower}",
        f"{unit.value(test.value)}{percent}",
        f"{unit.value(test.low)} to {unit.value(test.high)}",
        str(test.n),
        _versus(summary, objective, member.versus_parent.get(objective.name), named=True),
        _versus(summary, objective, member.versus_uniform.get(objective.name), named=False),
        "unknown" if search is None else f"{unit.value(search.value)}{percent}",
    )


def _versus(summary: Summary, objective: Objective, found: Versus | None, named: bool) -> str:
    if found is None:
        return "not compared"
    unit, d = summary.units[objective.name], found.difference
    text = unit.difference(d.difference)
    text = text if verdict(d, objective) == "unclear" else f"**{text}**"
    limits = f"({unit.difference(d.low)} to {unit.difference(d.high)})"
    return f"{text} {limits}" + (f" {escape(found.against)}" if named else "")


def _verdicts(summary: Summary, member: Member, objectives: Sequence[Objective]) -> str:
    found = [
        verdict(member.versus_parent[o.name].difference, o)
        for o in objectives
        if o.name in member.versus_parent
    ]
    if not found:
        return ""
    return (
        f"Against the best parent for each of {count(len(found), 'objective')}: measurably better "
        f"on {found.count('better')}, measurably worse on {found.count('worse')}, not "
        f"distinguishable on {found.count('unclear')}."
    )


def _optimised_for(result: StudyResult) -> tuple[str, ...]:
    """Say for which well-known benchmarks the scores no longer measure general ability."""
    lines = []
    for objective in result.objectives:
        if objective.held_out:
            continue
        items = {
            item
            for trial in result.trials
            if (scores := trial.scores("search", objective.name)) is not None
            for item in scores.items
        }
        tasks = dict.fromkeys([objective.task, *sorted({task for task, _ in items})])
        found = dict.fromkeys(name for name in map(benchmark, tasks) if name is not None)
        lines += [
            f"* **{escape(name)}** was optimised for, on {count(len(items), 'search item')} of "
            f"{escape(objective.task)}: the scores of this model on {escape(name)} no longer "
            "measure general ability."
            for name in found
        ]
    return ("## Optimised for", "\n".join(lines)) if lines else ()


def _optimism(summary: Summary) -> str:
    found = ", ".join(
        f"{escape(name)} {summary.units[name].difference(o.value)}"
        for name, o in summary.optimism.items()
    )
    return f"Optimism of the search over its front (search − test): {found}." if found else ""


def _recipe(member: Member, origins: Sequence[ModelOrigin]) -> str:
    """Return a member's recipe as YAML, with how its models are aligned."""
    align = {origin.name: origin.align for origin in origins if origin.align}
    return recipe_yaml({**({"align": align} if align else {}), **member.trial.trial.recipe.plain()})


def _models(origins: Sequence[ModelOrigin]) -> tuple[str, ...]:
    rows = [
        (
            escape(o.name),
            escape(o.path) if _HUB_ID.fullmatch(o.path) else "a local model",
            escape(o.revision or "not given"),
            escape(o.license or "unknown"),
        )
        for o in origins
    ]
    unknown = [escape(o.name) for o in origins if o.license is None]
    terms = "The terms of all their licences apply to this model; they may be incompatible."
    if unknown:
        terms += f" Unknown, check before use: {', '.join(unknown)}."
    aligned = ", ".join(f"{escape(o.name)} by {escape(o.align)}" for o in origins if o.align)
    order = f"Put in the order of the base's units before merging: {aligned}." if aligned else ""
    return ("## What went in", _table(("name", "model", "revision", "licence"), rows), order, terms)


def _use(where: str, published: bool, loader: str) -> tuple[str, ...]:
    program = (
        f"from transformers import {', '.join(sorted([loader, 'AutoTokenizer']))}\n\n"
        f"model = {loader}.from_pretrained({where!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({where!r})"
    )
    return ("## Use", "" if published else "In the run folder:", _fence(program, "python"))


def _published(result: StudyResult, repository: str) -> tuple[str, ...]:
    p = result.provenance
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in p.versions.items())
    name = repository.partition("/")[2]
    return (
        "## Reproduce",
        "`reproduce.json` names every model by its commit or the digest of its content, and the "
        "digest of the weights that were scored:",
        _fence(
            f"hf download {repository} --local-dir {name}\n"
            f"automerge reproduce {name}/reproduce.json --out again",
            "sh",
        ),
        f"The study is in `automerge.yaml`: sampler {escape(result.sampler)}, seed {result.seed}, "
        f"budget {result.limits}. Versions: {versions}.",
    )


def _reproduce(result: StudyResult, name: str) -> tuple[str, ...]:
    p = result.provenance
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in p.versions.items())
    return (
        "## Reproduce",
        "The test scores, in the study's run folder, which has the tasks and the sealed items:",
        _fence(score_commands(result, f"{MODELS}/{name}"), "sh"),
        "The study:",
        _fence(p.command, "sh"),
        f"Sampler {escape(result.sampler)}, seed {result.seed}, budget {result.limits}. "
        f"Versions: {versions}.",
    )


def escape(text: str) -> str:
    """Escape text for a line or a table in Markdown."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _fence(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
