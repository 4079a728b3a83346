"""TRN-17, CLI-37: Ctrl-C and SIGTERM wait for the end of a step, and the handlers are as before."""

from __future__ import annotations

import signal
import threading

import pytest
from ptycho_data.signals import Interrupted, Waiting, signals_interrupt, signals_wait

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _handlers_stay():
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


def come(number: int) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_waits_for_the_end_of_the_block(number):
    done = []

    def work():
        with signals_wait() as waiting:
            come(number)
            done.append(waiting.number)

    with pytest.raises(Interrupted) as caught:
        work()
    assert done == [number]
    assert caught.value.number == number


@pytest.mark.parametrize("number", NUMBERS)
def test_a_second_one_does_not_wait(number):
    done = []

    def work():
        with signals_wait():
            come(number)
            come(number)
            done.append(True)

    with pytest.raises(Interrupted):
        work()
    assert not done


def test_one_that_was_dealt_with_is_not_raised_again():
    with signals_wait() as waiting:
        come(signal.SIGINT)
        waiting.number = 0


def test_another_error_in_the_block_is_told_first():
    def work():
        with signals_wait():
            come(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_nested_blocks_end_from_the_inside():
    """A joint reconstruction in a training; the outer block hears of no signal that ended the inner one."""
    noted = []

    def work():
        with signals_wait() as outer:
            try:
                with signals_wait():
                    come(signal.SIGTERM)
            finally:
                noted.append(outer.number)

    with pytest.raises(Interrupted) as caught:
        work()
    assert noted == [0]
    assert caught.value.number == signal.SIGTERM


def test_a_library_that_takes_the_handlers_gets_them_taken_again():
    noted = []

    def work():
        with signals_wait() as waiting:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            waiting.install()
            come(signal.SIGTERM)
            noted.append(waiting.number)

    with pytest.raises(Interrupted):
        work()
    assert noted == [signal.SIGTERM]


def test_a_signal_that_is_ignored_stays_so():
    """``nohup`` and background jobs of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_wait() as waiting:
            come(signal.SIGINT)
            assert waiting.number == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_set_no_handlers():
    said = []

    def work() -> None:
        with signals_wait() as waiting, signals_interrupt():
            said.append(waiting.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [0]
    assert not Waiting().waits


def test_sigterm_ends_work_as_ctrl_c_does():
    cleaned = []

    def work():
        with signals_interrupt():
            try:
                come(signal.SIGTERM)
            finally:
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned
