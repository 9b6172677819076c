"""The conventions of a node program: settings in, `ready`, statistics out, one line when something goes wrong."""

import json
import signal
import subprocess
import sys

import pytest

HEAD = """
import sys, threading
from gnl.node_apps.program import announce_ready, run_program, wait_for
from gnl.topologies.errors import RunError
"""
WAITING = (
    HEAD
    + """
def work(settings, stopped):
    thread = threading.Thread(target=stopped.wait)
    thread.start()
    announce_ready()
    wait_for([thread])
    return {"got": settings}
sys.exit(run_program(work))
"""
)
RAISING = (
    HEAD
    + """
def work(settings, stopped):
    raise {error}
sys.exit(run_program(work))
"""
)
THREAD_FAILS = (
    HEAD
    + """
def work(settings, stopped):
    announce_ready()
    failing = threading.Thread(target=lambda: 1 / 0, name="emitter")
    other = threading.Thread(target=stopped.wait)
    other.start()
    failing.start()
    wait_for([failing, other])
    return {"statistics": "as if nothing had happened"}
sys.exit(run_program(work))
"""
)


@pytest.fixture
def started(tmp_path):
    """Starts a program from its text, with settings."""

    def start(text, settings=None):
        path, config = tmp_path / "prog.py", tmp_path / "settings.json"
        path.write_text(text)
        config.write_text(json.dumps({"n": 1}) if settings is None else settings)
        return subprocess.Popen(
            [sys.executable, path, config], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_then_the_statistics_when_it_is_told_to_stop(started, number):
    program = started(WAITING)
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    out, err = program.communicate(timeout=30)
    assert (json.loads(out), err, program.returncode) == ({"got": {"n": 1}}, "", 0)


@pytest.mark.parametrize(
    "error, said",
    [
        ("RunError('catalogue is gone')", "prog: catalogue is gone"),
        ("OSError(98, 'Address already in use')", "prog: [Errno 98] Address already in use"),
    ],
)
def test_what_goes_wrong_is_one_line_and_no_statistics(started, error, said):
    out, err = (program := started(RAISING.format(error=error))).communicate()
    assert (out, err.strip(), program.returncode) == ("", said, 1)


def test_a_thread_that_fails_ends_the_program_at_once(started):
    """Otherwise a router whose emitter died would go on swallowing prompts, and a sink report what it still had."""
    out, err = (program := started(THREAD_FAILS)).communicate(timeout=30)
    assert out == "ready\n" and program.returncode == 1
    assert err.strip() == "prog: thread emitter failed: ZeroDivisionError: division by zero"
