"""The lock, the registry, and children that die with their parent, with real processes and a folder of our own."""

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from gnl.experiments import run_state
from gnl.experiments.run_state import ProcessRecord, RunState, die_with_parent, process_start_ticks
from gnl.topologies.errors import MachineError, RunError


def wait_until(condition, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.01)


def start_run(root, run_id, *, body=""):
    """A process that acquires a run, does `body`, says so, and waits to be killed."""
    program = (
        textwrap.dedent(f"""
        import subprocess, sys, time
        from pathlib import Path
        from gnl.experiments.run_state import RunState
        state = RunState.acquire({run_id!r}, out_folder={str(root / "out")!r}, root=Path({str(root)!r}))
    """)
        + textwrap.dedent(body)
        + "print('acquired', flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "acquired"
    return process


def kill(process):
    process.kill()
    process.wait()


def test_a_run_registers_what_it_makes_and_leaves_nothing(tmp_path):
    with RunState.acquire("run-1", out_folder=tmp_path / "out", root=tmp_path) as state:
        state.record_process(os.getpid(), "main")
        state.record_nodes(["s", "d"])
        (found,) = run_state.read_runs(tmp_path)
        assert (found.run_id, found.nodes, found.out_folder) == ("run-1", ["s", "d"], str(tmp_path / "out"))
        assert found.processes == [ProcessRecord(os.getpid(), process_start_ticks(os.getpid()), "main")]
        assert found.is_alive() and run_state.live_run(tmp_path).run_id == "run-1"
        assert os.environ["GNL_RUN_ID"] == "run-1"
    assert run_state.read_runs(tmp_path) == [] and "GNL_RUN_ID" not in os.environ
    with RunState.acquire("run-2", root=tmp_path):
        pass


def test_a_second_run_is_refused_with_who_has_the_machine(tmp_path):
    process = start_run(tmp_path, "first")
    try:
        with pytest.raises(RunError, match=rf"first, process {process.pid}, since 20\d\d-"):
            RunState.acquire("second", root=tmp_path)
        assert [run.run_id for run in run_state.read_runs(tmp_path)] == ["first"]
    finally:
        kill(process)
    with RunState.acquire("second", root=tmp_path) as state:
        assert [run.run_id for run in run_state.dead_runs(tmp_path)] == ["first"]
        assert state.directory.is_dir()


def test_asking_who_runs_never_takes_the_lock(tmp_path):
    process = start_run(tmp_path, "first")
    kill(process)
    assert run_state.live_run(tmp_path) is None
    RunState.acquire("second", root=tmp_path).release()


def test_the_lock_is_not_passed_to_children(tmp_path):
    process = start_run(
        tmp_path,
        "first",
        body="""
        child = subprocess.Popen(['sleep', '600'])
        state.record_process(child.pid, 'child')
    """,
    )
    (run,) = run_state.read_runs(tmp_path)
    kill(process)
    try:
        assert run.processes[0].is_alive()
        RunState.acquire("second", root=tmp_path).release()
    finally:
        os.kill(run.processes[0].pid, signal.SIGKILL)


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "a b", "x" * 65])
def test_a_run_id_that_could_leave_the_folder_is_refused(tmp_path, run_id):
    with pytest.raises(RunError, match="run id"):
        RunState.acquire(run_id, root=tmp_path)


def test_run_ids_are_usable_and_differ():
    ids = {run_state.new_run_id() for _ in range(100)}
    assert len(ids) == 100 and all(run_state.RUN_ID.fullmatch(run_id) for run_id in ids)


def test_a_taken_run_id_is_refused_and_the_lock_given_back(tmp_path):
    kill(start_run(tmp_path, "same"))
    with pytest.raises(RunError, match="gnl clean"):
        RunState.acquire("same", root=tmp_path)
    RunState.acquire("other", root=tmp_path).release()


def test_a_root_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write in"):
        RunState.acquire("run", root=tmp_path / "file" / "gnl")


def test_an_interface_that_is_there_already_is_refused(tmp_path):
    with RunState.acquire("run", root=tmp_path) as state:
        state.plan_interfaces(["gnl-none-0"])
        with pytest.raises(RunError, match="interface lo exists"):
            state.plan_interfaces(["lo"])
        assert run_state.read_runs(tmp_path)[0].interfaces == ["gnl-none-0"]


def test_a_registry_cut_in_the_middle_of_a_line_is_read_as_far_as_it_goes(tmp_path):
    kill(start_run(tmp_path, "cut", body="state.record_nodes(['s', 'r'])\n"))
    with open(tmp_path / "cut" / "registry", "a") as registry:
        registry.write('{"process": 12')
    assert run_state.read_runs(tmp_path)[0].nodes == ["s", "r"]


def test_a_folder_without_its_run_file_is_a_dead_run(tmp_path):
    (tmp_path / "early").mkdir()
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / "run.json").write_text(json.dumps({"pid": "no number"}))
    assert [run.run_id for run in run_state.dead_runs(tmp_path)] == ["early", "garbled"]


def test_a_pid_given_again_is_not_the_process_that_was_recorded():
    process = subprocess.Popen(["sleep", "600"])
    try:
        ticks = process_start_ticks(process.pid)
        assert ProcessRecord(process.pid, ticks).is_alive()
        assert not ProcessRecord(process.pid, ticks - 1).is_alive()
    finally:
        process.kill()
        # Before wait() it is a zombie, which counts as ended.
        wait_until(lambda: process_start_ticks(process.pid) is None)
        process.wait()
    assert not ProcessRecord(process.pid, ticks).is_alive()


def test_start_ticks_of_a_process_whose_name_has_brackets(tmp_path):
    name = tmp_path / "a) S (b"
    name.symlink_to("/bin/sleep")
    process = subprocess.Popen([name, "600"])
    try:
        # Oracle: boot time plus start time is now, to within the test's own duration.
        uptime_s = float(open("/proc/uptime").read().split()[0])
        assert 0 <= uptime_s - process_start_ticks(process.pid) / os.sysconf("SC_CLK_TCK") < 60
    finally:
        kill(process)


def test_a_child_dies_with_its_parent_even_on_sigkill():
    program = textwrap.dedent("""
        import functools, os, subprocess, time
        from gnl.experiments.run_state import die_with_parent
        child = subprocess.Popen(["sleep", "600"], preexec_fn=functools.partial(die_with_parent, os.getpid()))
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert process_start_ticks(child) is not None
    kill(parent)
    wait_until(lambda: process_start_ticks(child) is None)


def test_a_child_whose_parent_died_before_does_not_start():
    not_the_parent = os.getppid()
    process = subprocess.Popen(["true"], preexec_fn=functools.partial(die_with_parent, not_the_parent))
    assert process.wait() == 1
