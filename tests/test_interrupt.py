"""Signals: the first asks, the second stops, and what was there before comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from automerge.interrupt import SIGNALS, Interrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_names_its_exit_code(number: signal.Signals) -> None:
    asked: list[bool] = []
    with Interrupt(lambda: asked.append(True)) as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert interrupt.exit_code == {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}[number.name]
    assert asked == [True]


def test_the_second_signal_stops_at_once() -> None:
    with Interrupt(lambda: None), pytest.raises(KeyboardInterrupt):  # noqa: PT012  two signals
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


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
from automerge.interrupt import Interrupt
with Interrupt(lambda: None):
    print("up", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_a_third_signal_ends_a_process_that_hangs_in_its_end() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    for _ in range(3):
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert child.wait(timeout=10) == 130
    child.stdout.close()
