"""The menu at the end of a search on a terminal: try, chat, save, push, quit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.chat import Chat, chat
from automerge.commands.publishing import Push, push
from automerge.commands.search import export_trials
from automerge.errors import AutomergeError
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

ENTRIES = {
    "t": "try: one prompt to a model and the best parent",
    "c": "chat with a model beside the best parent",
    "s": "save: write a model's folder",
    "p": "push a model to the Hugging Face Hub (private)",
    "q": "quit",
}


def menu(run: Path, console: Console, ask: Callable[[str], str] = input) -> None:
    """Offer next steps for a finished study until the user quits.

    Args:
        run: the study's folder.
        console: where the menu is shown.
        ask: returns what is typed after a prompt; raises EOFError or KeyboardInterrupt to quit.
    """
    try:
        while (key := _choose(console, ask)) != "q":
            try:
                _do(key, run, console, ask)
            except AutomergeError as error:
                say(console, str(error))
    except (EOFError, KeyboardInterrupt):
        say(console, "")


def _choose(console: Console, ask: Callable[[str], str]) -> str:
    say(console, "")
    for key, text in ENTRIES.items():
        say(console, f"  {key}  {text}")
    while True:
        key = ask("what next? ").strip().lower()[:1]
        if key in ENTRIES:
            return key
        if not key:
            return "q"


def _do(key: str, run: Path, console: Console, ask: Callable[[str], str]) -> None:
    trial = ask("model (a name, a number, knee; Enter for the one to take): ").strip() or "best"
    if key == "t":
        chat(Chat(run, [trial]), console, iter([ask("prompt: ")]))
    elif key == "c":
        say(console, "An empty line ends the chat.")
        chat(Chat(run, [trial]), console, iter(lambda: ask("> ").strip(), ""))
    elif key == "s":
        for folder in export_trials(run, [trial], console):
            say(console, str(folder))
    else:
        repository = ask("ORG/NAME: ").strip()
        say(console, push(Push(run, trial, repository, False, False, {}), console))
