"""Work in processes: everything is done, an error ends it, and a killed worker is no hang."""

import multiprocessing
import os
import signal

import pytest
from gnl.experiments.parallel import each
from gnl.topologies.errors import MachineError, UsageError


def square(number):
    return os.getpid(), number * number


def refuse(number):
    raise UsageError(f"no {number}")


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_is_done(workers):
    found = dict(each(square, [1, 2, 3], workers))
    assert {number: result for number, (_, result) in found.items()} == {1: 1, 2: 4, 3: 9}
    assert (os.getpid() in {pid for pid, _ in found.values()}) is (workers == 1)
    assert list(each(square, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_here(workers):
    with pytest.raises(UsageError, match="no 7"):
        list(each(refuse, [7], workers))


def test_a_killed_worker_is_told_and_none_is_left():
    with pytest.raises(MachineError, match="a worker was killed"):
        list(each(die, [1, 2], 2))
    for child in multiprocessing.active_children():
        child.join(10)
    assert not multiprocessing.active_children()
