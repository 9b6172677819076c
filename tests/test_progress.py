"""Progress goes to stderr only, one line a step, and waiting ends when it should."""

import io
import time

import pytest
from gnl.experiments import progress
from gnl.experiments.progress import Progress, counted


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def test_notes_are_lines_on_stderr_with_the_time_that_has_passed(capsys, clock):
    shown = Progress()
    clock[0] += 12.34
    shown.note("links calibrated")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "[ 12.3 s] links calibrated\n"


def test_a_quiet_run_says_nothing_and_waits_all_the_same(capsys, clock):
    shown = Progress(quiet=True)
    shown.note("anything")
    shown.wait_until("replicate", clock[0] + 5)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "") and clock[0] == pytest.approx(1005)


def test_away_from_a_terminal_a_phase_is_one_line_with_its_length_and_what_is_left(capsys, clock):
    shown = Progress()
    shown.expect(60)
    clock[0] += 20
    shown.wait_until("replicate", clock[0] + 15)
    assert capsys.readouterr().err == "[ 20.0 s] replicate (15 s), done in about 40 s\n"
    assert clock[0] == pytest.approx(1035)


def test_what_is_left_is_never_negative(capsys, clock):
    shown = Progress()
    shown.expect(1)
    clock[0] += 20
    shown.wait_until("late", clock[0] + 1)
    assert "done in about 0 s" in capsys.readouterr().err


def test_waiting_looks_after_the_run_several_times_a_second_and_an_error_ends_it(clock):
    looked = []

    def check():
        looked.append(clock[0])
        if len(looked) == 9:
            raise RuntimeError("the sink died")

    with pytest.raises(RuntimeError, match="the sink died"):
        Progress(quiet=True).wait_until("replicate", clock[0] + 100, check)
    assert clock[0] - 1000 < 3


def test_a_time_that_is_past_is_not_waited_for(clock):
    Progress(quiet=True).wait_until("replicate", clock[0] - 5)
    assert clock[0] == 1000


def test_on_a_terminal_the_bar_goes_to_stderr_and_leaves_one_line(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    shown = Progress()
    shown.expect(30)
    shown.wait_until("replicate", time.monotonic() + 0.05)
    assert capsys.readouterr().out == ""
    assert terminal.getvalue().splitlines()[-1].endswith("replicate")


def test_counted_items_come_through_and_what_is_left_is_said_now_and_then(capsys, clock):
    seen = []
    for item in counted("abcdefgh", "measured"):
        seen.append(item)
        clock[0] += 15
    assert seen == list("abcdefgh")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "measured: 2 of 8, done in about 90 s",
        "measured: 4 of 8, done in about 60 s",
        "measured: 6 of 8, done in about 30 s",
        "measured: 8 in 120 s",
    ]


def test_nothing_to_count_says_nothing(capsys):
    assert list(counted([], "measured")) == [] and capsys.readouterr().err == ""
