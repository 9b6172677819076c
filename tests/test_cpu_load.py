"""What others take of the CPU is what the kernel counted less what this program used."""

import pytest
from gnl.experiments import cpu_load
from gnl.experiments.cpu_load import OtherLoad


@pytest.fixture
def machine(monkeypatch):
    """A /proc/stat of two cores and this program's CPU time, both to be set by the test."""
    state = {"user": 0, "nice": 0, "idle": 1000, "steal": 0, "own_s": 0.0}

    class Stat:
        def __init__(self, path):
            assert path == "/proc/stat"

        def read_text(self):
            fields = (state["user"], state["nice"], 0, state["idle"], 0, 0, 0, state["steal"], 0, 0)
            return f"cpu  {' '.join(map(str, fields))}\ncpu0 1 2 3\n"

    monkeypatch.setattr(cpu_load, "Path", Stat)
    monkeypatch.setattr(cpu_load.time, "process_time", lambda: state["own_s"])
    return state


@pytest.mark.parametrize(
    "passed, share",
    [
        ({"idle": 200}, 0),
        ({"user": 100, "idle": 100, "own_s": 1.0}, 0),
        ({"user": 150, "idle": 50, "own_s": 1.0}, 0.25),
        ({"user": 100, "nice": 100, "own_s": 1.0}, 0.5),
        ({"user": 100, "idle": 60, "steal": 40, "own_s": 1.0}, 0.2),
        ({"user": 99, "idle": 101, "own_s": 1.2}, 0),
        ({}, 0),
    ],
)
def test_share_of_others(machine, passed, share):
    load = OtherLoad()
    for name, value in passed.items():
        machine[name] += value
    assert load.share() == pytest.approx(share)


def test_the_kernel_of_this_machine_is_understood():
    load = OtherLoad()
    sum(range(3_000_000))
    assert 0 <= load.share() <= 1
