"""What a report says of the slopes that were followed."""

from __future__ import annotations

from dataclasses import replace

from automerge.report.followed import followed, in_words
from automerge.report.html import html_report
from automerge.report.summary import summarise
from automerge.trial import PARENTS, Measured, Slope, answers_to_follow
from tests.report.factory import study

RESULT = study()


def sloped(sign: float):
    """The study, with the loss of its first objective in every trial that was measured."""
    first = RESULT.objectives[0]
    trials = []
    for trial in RESULT.trials:
        found, believed = trial.outcomes.get("search"), trial.search_estimate(first)
        if isinstance(found, Measured) and believed is not None:
            loss = sign * first.loss(believed.value) ** 3
            found = replace(found, slopes={first.name: Slope(loss, {})})
            trial = replace(trial, outcomes={**trial.outcomes, "search": found})
        trials.append(trial)
    smooth = tuple(o.name for o in RESULT.objectives[:-1])
    return replace(RESULT, trials=tuple(trials), smooth=smooth)


def test_the_rank_correlation_is_that_of_losses_and_what_was_believed():
    for sign in (1.0, -1.0):
        [row] = followed(sloped(sign))
        measured = [t for t in RESULT.trials if isinstance(t.outcomes.get("search"), Measured)]
        assert (row.objective, row.n_trials) == (RESULT.objectives[0].name, len(measured))
        assert abs(row.rank - sign) < 1e-12


def test_what_was_followed_is_said_and_what_could_not_be():
    names = [o.name for o in RESULT.objectives]
    assert in_words(sloped(1.0)) == f"of {names[0]}; objectives without a usable loss: {names[-1]}"
    assert in_words(replace(RESULT, smooth=tuple(names))) == "none followed"
    assert followed(RESULT) == ()


def answered():
    """The study, with right answers of base and sources to the items of its first objective."""
    first = RESULT.objectives[0].name
    sloped_study = sloped(1.0)
    trials = []
    for trial in sloped_study.trials:
        found = trial.outcomes.get("search")
        if trial.trial.origin in PARENTS and isinstance(found, Measured):
            scores = found.scores[first]
            pairs = zip(scores.items, scores.values, strict=True)
            texts = {item: trial.trial.name for item, value in pairs if value == 1}
            found = replace(found, answers={first: texts})
            trial = replace(trial, outcomes={**trial.outcomes, "search": found})
        trials.append(trial)
    return replace(sloped_study, trials=tuple(trials))


def test_whose_answers_are_followed_is_counted_the_best_parents_first():
    result = answered()
    [row] = followed(result)
    parents = {
        trial.trial.name: trial.outcomes["search"]
        for trial in result.trials
        if trial.trial.origin in PARENTS and "search" in trial.outcomes
    }
    texts = {name: found.answers[row.objective] for name, found in parents.items()}
    best = max(
        texts, key=lambda name: len(texts[name]) / len(parents[name].scores[row.objective].items)
    )
    assert row.answers[best] == len(texts[best])
    assert sum(row.answers.values()) == len({item for own in texts.values() for item in own})
    followed_texts = answers_to_follow(dict(enumerate(parents.values())))[row.objective]
    assert sorted(followed_texts.values()) == sorted(
        name for name, n in row.answers.items() for _ in range(n)
    )
    assert f"{row.answers[best]} right answers of {best}" in html_report(summarise(result))
    assert "right answer" not in html_report(summarise(sloped(1.0)))


def test_the_report_shows_it():
    html = html_report(summarise(sloped(1.0)))
    assert "Slopes that the search followed" in html
    assert "Slopes that the search followed" not in html_report(summarise(RESULT))
