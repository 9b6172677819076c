"""Signals are held back while something is taken down, and delivered after: nothing is cut short, nothing is lost."""

import signal
import threading

import pytest
from gnl.topologies.interrupts import ENDING, IMPATIENT, held_back


@pytest.fixture
def handled():
    """The signals that a handler of ours got, in order; the handlers of the test run come back afterwards."""
    got, before = [], {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, lambda number, _frame: got.append(number))
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_waits_until_the_block_has_ended(handled, number):
    with held_back():
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert handled == []
    assert handled == [number]
    signal.raise_signal(number)
    assert handled == [number, number]


def test_an_interrupt_does_not_cut_the_block_short(handled):
    def interrupt(*_signal):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        done.append("taken down")
    assert done == ["taken down"]


def test_a_block_that_hangs_can_be_left_by_insisting(handled):
    def interrupt(*_signal):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    sent = 0
    with pytest.raises(KeyboardInterrupt), held_back():
        for sent in range(1, 100):
            signal.raise_signal(signal.SIGINT)
    assert sent == IMPATIENT and signal.getsignal(signal.SIGINT) is interrupt


def test_blocks_within_blocks_deliver_once_at_the_end(handled):
    with held_back():
        with held_back():
            signal.raise_signal(signal.SIGTERM)
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_handlers_are_restored_after_an_error(handled):
    before = [signal.getsignal(number) for number in ENDING]
    with pytest.raises(OSError), held_back():
        raise OSError
    assert [signal.getsignal(number) for number in ENDING] == before


def test_a_signal_that_is_ignored_stays_ignored(handled):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with held_back():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and handled == []


def test_other_threads_pass_through(handled):
    done = []

    def work():
        with held_back():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
