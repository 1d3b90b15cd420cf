"""Signs of life while the handler works, and ends on signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from consumers.base.broker.pulse import Pulse
from eventbus.process.stopping import stop_on_signals


class Beats:
    """Counts; `error` is raised by each beat."""

    def __init__(self) -> None:
        self.beaten = threading.Semaphore(0)
        self.count = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        self.beaten.release()
        if self.error:
            raise self.error


@pytest.fixture
def beats() -> Beats:
    return Beats()


@pytest.fixture
def pulse(beats: Beats) -> Iterator[Pulse]:
    made = Pulse(0.01, beats)
    yield made
    made.close()


def test_long_work_has_signs_of_life(pulse: Pulse, beats: Beats) -> None:
    with pulse:
        for _ in range(3):
            assert beats.beaten.acquire(timeout=5)


def test_outside_of_work_the_connection_is_left_alone(pulse: Pulse, beats: Beats) -> None:
    with pulse:
        assert beats.beaten.acquire(timeout=5)
    count = beats.count
    threading.Event().wait(0.1)  # ten intervals in which nothing may happen
    assert beats.count == count


def test_a_broken_connection_is_not_the_second_threads_to_report(pulse: Pulse, beats: Beats) -> None:
    beats.error = BrokenPipeError()
    with pulse:
        for _ in range(3):
            assert beats.beaten.acquire(timeout=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_is_as_before(number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda received, _frame: seen.append(received))
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), number)
            assert stop.wait(5)
            assert seen == []
            os.kill(os.getpid(), number)
            assert seen == [number]
        assert signal.getsignal(number) is not signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    kept = signal.getsignal(signal.SIGTERM)
    asked: list[bool] = []

    def enter() -> None:
        with stop_on_signals() as stop:
            asked.append(stop.is_set())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert asked == [False]
    assert signal.getsignal(signal.SIGTERM) is kept
