"""Signals: the first asks, the second stops, and what was there before comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from automerge.commands.interrupt import SIGNALS, WARNINGS, Interrupt, Stopped, stopping_at_once

CODES = {
    "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138, "SIGUSR2": 140, "SIGXCPU": 152,
}  # fmt: skip


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_names_its_exit_code(number: signal.Signals) -> None:
    asked: list[bool] = []
    with Interrupt(lambda: asked.append(True)) as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert interrupt.exit_code == CODES[number.name]
    assert asked == [True]


def test_the_second_signal_stops_at_once() -> None:
    with Interrupt(lambda: None), pytest.raises(Stopped) as stopped:  # noqa: PT012  two signals
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert stopped.value.exit_code == 130


@pytest.mark.parametrize("number", WARNINGS)
def test_what_schedulers_send_again_and_again_asks_only_once(number: signal.Signals) -> None:
    asked: list[bool] = []
    with Interrupt(lambda: asked.append(True)) as interrupt:
        for _ in range(5):
            os.kill(os.getpid(), number)
        assert interrupt.exit_code == CODES[number.name]
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)
    assert asked == [True]
    assert stopped.value.exit_code == 143


def test_a_signal_that_was_ignored_stays_ignored_as_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt(lambda: None) as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupt.install()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
        with stopping_at_once():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_is_worth_finishing_one_signal_stops(number: signal.Signals) -> None:
    with stopping_at_once(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == CODES[number.name]


def test_handlers_put_in_between_are_replaced_and_the_first_ones_restored() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with Interrupt(lambda: None) as interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does
        interrupt.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def use() -> None:
        with Interrupt(lambda: None):
            assert {number: signal.getsignal(number) for number in SIGNALS} == before

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()


STUBBORN = """
import time
from automerge.commands.interrupt import Interrupt
with Interrupt(lambda: print("asked", flush=True)):
    while True:
        try:
            print("up", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("stopping", flush=True)
"""


def test_a_third_signal_ends_a_process_that_hangs_in_its_end() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for word in ("up\n", "asked\n", "stopping\n"):
        assert child.stdout.readline() == word
        child.send_signal(signal.SIGINT)
    assert child.wait(timeout=300) == 130
    child.stdout.close()
