"""What the page needs to choose a merge as `pick` does (automerge/report/pick.py)."""

from __future__ import annotations

from automerge.report.summary import Member, Summary


def preferences(summary: Summary) -> list[dict[str, object]] | None:
    """Return the merges on the front with their scores on select items, in `pick`'s order.

    None if there is nothing to choose between: fewer than two merges with all these scores.
    """
    rows = [row for m in summary.front if (row := _row(m, summary)) is not None]
    return rows if len(rows) > 1 else None


def _row(member: Member, summary: Summary) -> dict[str, object] | None:
    objectives = summary.result.objectives
    scores = [member.scores[o.name]["select"] for o in objectives]
    select = [None if score is None else score.value for score in scores]
    if any(v is None and not o.held_out for v, o in zip(select, objectives, strict=True)):
        return None
    trial = member.trial.trial
    return {
        "index": summary.members.index(member),
        "trial": trial.number,
        "method": trial.recipe.methods_in_words,
        "select": select,
    }
