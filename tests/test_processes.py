"""Processes of a run: all gone at the end whatever they do, their words and their complaints handed on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gnl.experiments import processes as module
from gnl.experiments.processes import Processes, Program, python_module
from gnl.experiments.run_state import RunState
from gnl.topologies.errors import RunError

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)


@pytest.fixture
def state(tmp_path):
    with RunState.acquire("test-run", root=tmp_path) as state:
        yield state


@pytest.fixture
def processes(state, monkeypatch):
    monkeypatch.setattr(module, "STOP_LIMIT_S", 0.3)
    monkeypatch.setattr(module, "NETWORK_NICE", 0)  # a higher priority is root's to give
    with Processes(state) as processes:
        yield processes


def python(processes, code, *arguments):
    process = processes.start(
        [sys.executable, "-c", code, *arguments], "test program", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return Program(process, "test program")


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def wait_gone(pid):
    deadline = time.monotonic() + 20
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return gone(pid)


def test_all_are_ended_and_reaped_at_the_end_of_the_run(state, monkeypatch):
    monkeypatch.setattr(module, "STOP_LIMIT_S", 0.3)
    with pytest.raises(KeyError), Processes(state) as processes:
        willing, stubborn = python(processes, "import time; time.sleep(600)"), python(processes, STUBBORN)
        stubborn.wait_ready()
        raise KeyError
    assert willing.process.returncode == -signal.SIGTERM and stubborn.process.returncode == -signal.SIGKILL
    assert gone(willing.process.pid) and gone(stubborn.process.pid)


def test_each_dies_with_the_main_process_also_when_that_is_killed(tmp_path):
    """Run in a child, which is killed: what it started must not go on sending."""
    code = f"""
import sys, time
from pathlib import Path
from gnl.experiments.processes import Processes
from gnl.experiments.run_state import RunState
state = RunState.acquire("victim", root=Path({str(tmp_path)!r}))
process = Processes(state).start([sys.executable, "-c", {STUBBORN!r}], "stubborn")
print(process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as main:
        pid = int(main.stdout.readline())
        assert not gone(pid)
        main.kill()
    assert wait_gone(pid)


def test_each_leads_a_session_of_its_own_so_that_ctrl_c_reaches_the_run_alone(processes):
    program = python(processes, "import os; print(os.getsid(0) == os.getpid(), flush=True)")
    assert program._line(20) == "True"


def test_each_is_registered_with_its_role(state, processes):
    program = python(processes, "import time; time.sleep(600)")
    entries = [json.loads(line) for line in (state.directory / "registry").read_text().splitlines()]
    assert [(entry["process"], entry["role"]) for entry in entries] == [(program.process.pid, "test program")]


def test_a_run_of_many_repeats_keeps_no_pipes_of_programs_that_have_ended(processes):
    open_files = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731
    python(processes, "print('{}')").wait(20)
    before = open_files()
    for _ in range(5):
        python(processes, "print('{}')").wait(20)
    assert open_files() <= before + 2


def test_settings_files_of_programs_do_not_overwrite_one_another(processes):
    class Network:
        def inside(self, node, *command):
            return [sys.executable, "-c", "import sys; print(sys.argv[-1], flush=True)", *command]

    paths = [processes.program(Network(), "s", "source", {"n": n})._line(20) for n in range(3)]
    assert [json.loads(Path(path).read_text()) for path in paths] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_ready_then_a_document_then_the_statistics(processes):
    program = python(
        processes,
        """
import sys
print('ready'); print('{"start_s": 1.5}', flush=True)
print('{"packets": %d}' % 3, flush=True)""",
    )
    program.wait_ready()
    assert program.wait_json(20) == {"start_s": 1.5}
    assert program.wait(20) == {"packets": 3}
    program.require_alive()


def test_statistics_larger_than_a_pipe_holds_come_whole(processes):
    program = python(processes, "import json; print(json.dumps({'facts': ['x' * 100] * 5000}), flush=True)")
    assert len(program.wait(20)["facts"]) == 5000


def test_a_program_that_is_told_to_stop_gives_its_statistics(processes):
    program = python(
        processes,
        """
import signal, threading
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
print('ready', flush=True)
stopped.wait(600)
print('{"done": true}', flush=True)""",
    )
    program.wait_ready()
    assert program.stop(20) == {"done": True}


FAILING = "import sys; print('source: [Errno 99] no such address', file=sys.stderr); sys.exit(1)"


@pytest.mark.parametrize(
    "ask",
    [
        lambda program: program.wait_ready(20),
        lambda program: program.wait_json(20),
        lambda program: program.wait(20),
        lambda program: (program.process.wait(), program.require_alive()),
    ],
)
def test_a_program_that_ended_is_quoted_in_one_line(processes, ask):
    with pytest.raises(RunError, match=r"^test program .*no such address$") as caught:
        ask(python(processes, FAILING))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda program: program.wait_ready(0.05), "did not become ready"),
        (lambda program: program.wait_json(0.05), "said nothing within"),
        (lambda program: program.wait(0.05), "was not done within"),
    ],
)
def test_a_program_that_hangs_is_given_up_and_killed(state, processes, ask, words):
    program = python(processes, STUBBORN.replace("print('ready', flush=True); ", ""))
    with pytest.raises(RunError, match=words):
        ask(program)
    assert wait_gone(program.process.pid)


def test_garbage_instead_of_statistics_is_refused(processes):
    with pytest.raises(RunError, match="no statistics"):
        python(processes, "print('Segmentation fault', flush=True)").wait(20)


def test_modules_are_run_by_this_interpreter():
    assert python_module("node_apps.sink", Path("/x y"), "--z") == [
        sys.executable,
        "-m",
        "gnl.node_apps.sink",
        "/x y",
        "--z",
    ]
