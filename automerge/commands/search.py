"""A whole search: session → loop → export → reports; and each of its steps by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from automerge.commands.adapter_folder import AsAdapter
from automerge.commands.export import export_adapters, export_models, write_cards
from automerge.commands.interrupt import Interrupt
from automerge.commands.notify import notify
from automerge.commands.run_log import Logged, RunLog, ending
from automerge.commands.tracking import Tracked, Tracking
from automerge.commands.written import written_lines
from automerge.config import StudyConfig, load_config
from automerge.errors import AutomergeError, ConfigError, PreflightError
from automerge.executors.base import Executor
from automerge.machine.processors import fit_threads
from automerge.objective import goals
from automerge.report.study import Study, load_study
from automerge.samplers import SAMPLERS
from automerge.session.folder import discard
from automerge.session.open import Session, open_session
from automerge.session.surroundings import machine
from automerge.store.read_result import with_exported
from automerge.store.result import MODELS, State, limits_in_words
from automerge.store.store import Store
from automerge.study import Driver, Observer
from automerge.text.say import say
from automerge.trial import BASELINES, count_items

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.store.result import StudyResult


def search(
    config: StudyConfig | Path | str | Mapping[str, object], *, console: Console | None = None
) -> Study:
    """Run a search to its end, or resume it.

    Args:
        config: a configuration, a YAML file, or a mapping with the keys and values that the YAML
            file would have: `{"base": ..., "models": {"maths": ...}, "tasks": [...]}`.
        console: where progress is shown; None shows nothing.

    Returns:
        The finished study, whose report and models are written.

    Raises:
        AutomergeError: something that you can fix; the message says what to do.
        KeyboardInterrupt: Ctrl-C was pressed. What was measured is kept; the same call resumes.
    """
    fit_threads()
    if not isinstance(config, StudyConfig):
        config = load_config(config)
    interrupt, study = _run(config, console, "automerge.search(...)")
    if interrupt.requested:
        raise KeyboardInterrupt
    return study


def run_search(
    config: StudyConfig, console: Console, command: str, notified: str | None = None
) -> int:
    """Search, show the front, run the command `notified`, and return the exit code.

    It is run however the search ends, unless a signal stops it immediately.
    """
    tell = partial(_tell, notified, Path(config.out), console)
    try:
        interrupt, study = _run(config, console, command)
        code = _show_end(config, console, interrupt, study)
    except Exception:
        tell("failed")
        raise
    if interrupt.requested:
        tell("stopped")
    else:
        from automerge.report.choice import choose

        taken = choose(study.summary)
        tell("finished", "" if taken is None else taken.name)
    return code


def _tell(
    notified: str | None,
    run: Path,
    console: Console,
    state: Literal["finished", "stopped", "failed"],
    take: str = "",
) -> None:
    """Run the user's command, if there is one; its failure is a warning."""
    if notified is not None and (problem := notify(notified, run, state, take)):
        say(console, f"warning: {problem}")


def _show_end(config: StudyConfig, console: Console, interrupt: Interrupt, study: Study) -> int:
    """Show the front, or how to resume; return the exit code."""
    from automerge.commands.status import prospects
    from automerge.report.course import prospect
    from automerge.report.spending import in_words
    from automerge.report.table import FrontTable

    run = _shown(Path(config.out))
    if interrupt.requested:
        say(
            console,
            f"Stopped. What was measured is in {run}; run the same command to resume.",
        )
        return interrupt.exit_code
    console.print(FrontTable(study.summary, run))
    for line in prospects(in_words(study.result), prospect(study.result)):
        say(console, line)
    for name in ("report.html", "front.json"):
        say(console, f"{name:12} {run / name}")
    for line in written_lines(study, run, config.export):
        say(console, line)
    return 0


def export_trials(
    run: Path,
    trials: Sequence[str] | None,
    console: Console,
    given: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Write the models of some trials to RUN/models; return their folders.

    Args:
        run: the study's folder.
        trials: numbers, names, "best" (the model to take), "knee" or "front" (all merges on it);
            None is "best".
        console: where progress is shown.
        given: where the study's models are, by name, if they are not where the study says.
    """
    study = load_study(run)
    chosen = _wanted(study, trials)
    _export(study, chosen, console, given)
    return [run / MODELS / study.result.by_number[number].trial.name for number in chosen]


def export_as_adapters(
    run: Path,
    trials: Sequence[str] | None,
    how: AsAdapter,
    console: Console,
    given: Mapping[str, Path] | None = None,
) -> dict[Path, str]:
    """Write merges as `export_trials` does, as adapters in RUN/adapters; say what each holds."""
    study = load_study(run)
    return export_adapters(run, study.result, _wanted(study, trials), how, console, given)


def _wanted(study: Study, trials: Sequence[str] | None) -> list[int]:
    """Return the numbers of the trials that are named, else of the model to take."""
    if trials:
        return trial_numbers(study, trials)
    if not (chosen := to_export(study, "best")):
        raise ConfigError(f"{study.run} has no model to take yet; name trials with --trial")
    return list(chosen)


def trial_numbers(study: Study, words: Sequence[str]) -> list[int]:
    """Return the numbers of trials that are named by number, name, "best", "knee" or "front"."""
    trials = {found.trial.name: found.trial.number for found in study.result.trials}
    known = {str(number): [number] for number in trials.values()}
    known |= {name: [number] for name, number in trials.items()}
    several = {word: list(to_export(study, word)) for word in ("best", "knee", "front")}
    several = {word: numbers for word, numbers in several.items() if numbers}
    known |= several
    if unknown := [word for word in words if word not in known]:
        last = max(trials.values(), default=-1)
        names = ", ".join(["their names", *several])
        raise ConfigError(
            f"{study.run} has no trial {', '.join(unknown)}; it has 0 to {last}, {names}"
        )
    return list(dict.fromkeys(number for word in words for number in known[word]))


def show(run: Path, every: bool, console: Console) -> None:
    """Print a study's results as the end of its search does, or all of them."""
    from automerge.report.table import FrontTable

    console.print(FrontTable(load_study(run).summary, _shown(run), every))


def write_reports(run: Path) -> list[Path]:
    """Write front.json and report.html from the store."""
    return _write_reports(load_study(run))


def _write_reports(study: Study) -> list[Path]:
    from automerge.report.front import write_front
    from automerge.report.html import write_html

    return [write_front(study.summary, study.run), write_html(study.summary, study.run)]


def _export(
    study: Study,
    numbers: Sequence[int],
    console: Console | None,
    given: Mapping[str, Path] | None = None,
) -> Study:
    """Write models, all cards and the reports; return the study with its new models.

    The reports are written even if a model cannot be. Models that were written earlier get new
    cards, as the study may say something else of them now.
    """
    run = study.run
    try:
        export_models(run, study.result, numbers, console, given)
    finally:
        study = Study(run, with_exported(study.result, run))
        _write_reports(study)
    write_cards(study)
    return study


def _export_each(
    study: Study,
    numbers: Sequence[int],
    how: AsAdapter,
    console: Console | None,
    warn: Callable[[str], None],
) -> list[str]:
    """Write trials as adapters; return the folders within the run. `warn` is told of the others."""
    written = []
    for number in numbers:
        try:
            found = export_adapters(study.run, study.result, [number], how, console)
        except PreflightError as error:
            name = study.result.by_number[number].trial.name
            warn(f"{name} is not written as an adapter: {error}")
            continue
        for folder, said in found.items():
            if console is not None:
                say(console, f"{folder}: {said}")
            written.append(str(folder.relative_to(study.run)))
    return written


def _run(config: StudyConfig, console: Console | None, command: str) -> tuple[Interrupt, Study]:
    """Open or resume the study, search, export and report, and log all of it."""

    def tell(message: str) -> None:
        if console is not None:
            say(console, message)

    def warn(message: str) -> None:
        tell(f"warning: {message}")

    session = open_session(config, command, tell)

    with RunLog(Path(config.out), warn) as log:
        log.write(*_opening(session, command))

        def warn_and_log(message: str) -> None:
            log.write(f"warning: {message}")
            warn(message)

        with Tracking(config.trackers, warn_and_log) as tracking:
            interrupt, study = _searched(session, console, log, tracking)
            if interrupt.requested:
                tracking.end("stopped", {})
            else:
                tracking.end("finished", _found(study))
        chosen = () if interrupt.requested else to_export(study, config.export)
        whole = () if config.export == "adapter" else chosen
        study = _export(study, whole, console)
        names = (study.result.by_number[number].trial.name for number in whole)
        written = [f"{MODELS}/{name}" for name in names]
        if config.export == "adapter":
            how = AsAdapter(config.adapter_rank)
            written += _export_each(study, chosen, how, console, warn_and_log)
        log.write(*(f"batches     {text}" for text in study.result.batched))
        log.write(*ending(interrupt.requested, written))
    return interrupt, study


def _found(study: Study) -> dict[str, str | int | float | bool]:
    """Return the model to take and its test scores, for trackers."""
    from automerge.report.choice import choose

    taken = choose(study.summary)
    if taken is None:
        return {}
    member = next(m for m in study.summary.members if m.name == taken.name)
    tests = {name: parts["test"] for name, parts in member.scores.items()}
    scores = {f"take/{name}": test.value for name, test in tests.items() if test is not None}
    return {"take": taken.name, "beats_parent": taken.beats_parent, **scores}


def _searched(
    session: Session, console: Console | None, log: RunLog, tracking: Tracking
) -> tuple[Interrupt, Study]:
    """Search; the study is read once, after its last measurement."""
    from automerge.commands.progress import Silent, watching

    run = session.store.path.parent
    objectives = session.plan.objectives

    def watched(observer: Observer) -> Observer:
        return Logged(log, Tracked(tracking, objectives, observer))

    refused = False
    try:
        with session.store as store:
            tracking.begin(session.config.name, run, store.study.current.config)
            try:
                if console is None:
                    interrupt = _drive(session, watched(Silent()))
                else:
                    _introduce(session, console)
                    with watching(console, objectives, session.device) as observer:
                        interrupt = _drive(session, watched(observer))
            except AutomergeError:
                counts = store.counts()
                refused = session.new and not counts["measured"] and not counts["failed"]
                raise
    except BaseException:
        if refused:
            log.close()
            discard(run)
        else:
            write_reports(run)
        raise
    return interrupt, load_study(run)


def _introduce(session: Session, console: Console) -> None:
    """Print what will be searched, and on what, before the first trial."""
    config = session.config
    say(console, f"study       {config.name} in {_shown(Path(config.out))}")
    for line in _introduction(session):
        say(console, line)


def _opening(session: Session, command: str) -> list[str]:
    """Return the first lines of a run in the log: by what, on what, and what will be searched."""
    verb = "begun" if session.new else "resumed"
    versions = session.store.study.current.versions[-1].versions
    return [
        f"{verb:11} {session.config.name}, by: {command}",
        f"machine     {machine()}",
        f"versions    {', '.join(f'{name} {number}' for name, number in versions.items())}",
        *_introduction(session),
    ]


def _introduction(session: Session) -> list[str]:
    """Return what will be searched, and on what, in lines."""
    config, plan = session.config, session.plan
    drawn = plan.draw.per_candidate
    each = "" if drawn is None else f" ({drawn} fresh ones per objective and candidate)"
    counts = session.store.counts()
    trials = plan.limits.trials
    counted = None if trials is None else str(trials)
    lines = [
        f"models      {len(config.models)} sources: {', '.join(config.models)}",
        f"tasks       {', '.join(o.name for o in plan.objectives)}",
        f"items       {count_items(plan.items.search)} to search{each}, "
        f"{count_items(plan.items.select)} to select, {plan.items.test.count} sealed for the test",
        f"space       {session.space.describe()}",
        f"sampler     {session.sampler}, seed {config.seed}, budget "
        f"{limits_in_words(counted, config.max_items, config.max_time, config.patience)}",
    ]
    lines += [] if session.slopes is None else [f"slopes      {session.slopes}"]
    lines += [f"constraint  {constraint}" for constraint in plan.constraints]
    if counts["asked"]:
        lines.append(f"resuming    {counts['measured']} measured, {counts['failed']} failed before")
    lines += [f"warning: {warning}" for warning in session.warnings]
    if trials is not None and 0 < trials <= len(plan.first):
        lines.append(
            f"note: a budget of {trials} covers only the initial trials (base, sources, uniform "
            f"average, your recipes: {len(plan.first)}); nothing is searched"
        )
    return lines


def to_export(study: Study, export: str) -> Sequence[int]:
    """Return the trials that the configuration asks to export."""
    from automerge.report.choice import choose

    result = study.result
    front = [n for n in result.front if _merged(result, n)]
    if export == "best":
        taken = choose(study.summary)
        return [n for n in front if taken and result.by_number[n].trial.name == taken.name]
    knee = [n for n in front if n == result.knee]
    return {"front": front, "knee": knee, "adapter": front, "none": []}[export]


def _merged(result: StudyResult, number: int) -> bool:
    """Return whether a trial is a merge rather than an input model."""
    return result.by_number[number].trial.origin not in BASELINES


def _shown(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _drive(session: Session, observer: Observer) -> Interrupt:
    """Run the phases under our signal handlers and record how they ended."""
    store, config, plan = session.store, session.config, session.plan
    sampler = SAMPLERS[session.sampler](
        session.space, len(goals(plan.objectives)), config.seed, config.expected_budget
    )
    message = "stopping: finishing running trials first; press Ctrl-C again to stop immediately"
    with Interrupt(lambda: observer.note(message)) as interrupt:

        def start() -> Executor:
            executor = session.executor(observer.note)
            interrupt.install()
            return executor

        _ended(store, "interrupted")
        driver = Driver(
            store, plan, session.space, sampler, start, observer, lambda: interrupt.requested
        )
        try:
            done = driver.run()
        except AutomergeError:
            _ended(store, "failed")
            raise
    if done:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        _ended(store, "finished", now)
    return interrupt


def _ended(store: Store, state: State, finished: str | None = None) -> None:
    """Record the state of a run."""
    store.renew(replace(store.study.current, state=state, finished=finished))
