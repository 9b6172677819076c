"""`gnl clean` after SIGKILL: all of the killed run goes, nothing else does."""

import os
import subprocess
import sys
import textwrap

import pytest
from gnl.experiments import run_state
from gnl.experiments.clean import clean, leftovers
from gnl.experiments.run_state import process_start_ticks


def start_run(root, run_id, body=""):
    program = textwrap.dedent(f"""
        import os, subprocess, sys, time
        from pathlib import Path
        from gnl.experiments.run_state import RunState
        state = RunState.acquire({run_id!r}, out_folder={str(root.parent / "out")!r}, root=Path({str(root)!r}))
        state.record_nodes(["s", "d"])
        child = subprocess.Popen(["sleep", "600"], env={{}})
        state.record_process(child.pid, "sink")
        {body}
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def said():
    return []


def test_nothing_to_clean(root, said):
    assert clean(root, said.append) == 0 and said == ["nothing to clean"]
    root.mkdir()
    (root / "lock").write_text("")
    assert clean(root, said.append) == 0 and said == ["nothing to clean"] * 2


def test_a_killed_run_is_removed_and_a_stranger_is_not(root, said):
    stranger = subprocess.Popen(["sleep", "600"])
    process, child = start_run(root, "dead")
    (root.parent / "out").mkdir()
    process.kill()
    process.wait()
    try:
        assert process_start_ticks(child) is not None
        assert leftovers(root) == ["run dead: 1 process"]
        assert clean(root, said.append) == 0
        assert process_start_ticks(child) is None and run_state.read_runs(root) == [] and leftovers(root) == []
        assert process_start_ticks(stranger.pid) is not None
        assert (root.parent / "out").is_dir()
    finally:
        stranger.kill()
        stranger.wait()
    text = "\n".join(said)
    assert f"ended process {child} (sink) of run dead" in text and "namespaces of s, d" in text
    assert f"removed {root / 'dead'}" in text and f"left as it is: {root.parent / 'out'}" in text
    said.clear()
    assert clean(root, said.append) == 0 and said == ["nothing to clean"]


def test_a_process_that_was_never_registered_is_found_by_what_it_inherited(root, said):
    process, registered = start_run(root, "dead", "print(subprocess.Popen(['sleep', '601']).pid, flush=True)")
    # The unregistered child is printed first.
    unregistered, registered = registered, int(process.stdout.readline())
    process.kill()
    process.wait()
    assert clean(root, said.append) == 0
    assert process_start_ticks(unregistered) is None and process_start_ticks(registered) is None


def test_a_live_run_is_not_touched_and_named(root, said):
    process, child = start_run(root, "live")
    try:
        assert clean(root, said.append) == 1
        assert said == [f"run live (process {process.pid}) is in progress: nothing touched"]
        assert process.poll() is None and process_start_ticks(child) is not None
        assert [run.run_id for run in run_state.read_runs(root)] == ["live"] and leftovers(root) == []
    finally:
        process.kill()
        process.wait()
        clean(root, said.append)


def test_a_pid_that_belongs_to_somebody_else_by_now_is_spared(root, said):
    process, child = start_run(root, "dead")
    process.kill()
    process.wait()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        with open(root / "dead" / "registry", "a") as registry:
            registry.write(f'{{"process": {stranger.pid}, "start_ticks": 1, "role": "sink"}}\n')
        assert clean(root, said.append) == 0
        assert stranger.poll() is None and process_start_ticks(child) is None
    finally:
        stranger.kill()
        stranger.wait()


def test_it_does_not_end_itself_where_it_is_typed_in_a_shell_of_the_killed_run(root, said, monkeypatch):
    process, child = start_run(root, "dead")
    process.kill()
    process.wait()
    program = f"""
import sys
from pathlib import Path
from gnl.experiments.clean import clean
sys.exit(clean(Path({str(root)!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"GNL_RUN_ID": "dead"}, capture_output=True)
    assert done.returncode == 0 and process_start_ticks(child) is None


@pytest.mark.emulation
def test_interfaces_that_the_run_planned_go_and_others_stay(root, said):
    names = ("gnlt0", "gnlt1", "gnlt2")
    body = "state.plan_interfaces(['gnlt0', 'gnlt2', 'gnlt-none'])"
    process, _ = start_run(root, "dead", body)
    process.kill()
    process.wait()
    # In a namespace of its own: the machine's interfaces are never touched by a test.
    program = f"""
import subprocess, sys
from pathlib import Path
from gnl.experiments.clean import clean
run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True).stdout
run("mount", "-t", "sysfs", "none", "/sys")
run("ip", "link", "add", "gnlt0", "type", "veth", "peer", "name", "gnlt1")
run("ip", "tuntap", "add", "gnlt2", "mode", "tap")
run("ip", "link", "add", "gnlt3", "type", "veth", "peer", "name", "gnlt4")
status = clean(Path({str(root)!r}))
print(run("ip", "-br", "link"))
sys.exit(status)
"""
    done = subprocess.run(["unshare", "-n", "-m", sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "removed interface gnlt0 of run dead" in done.stdout
    assert "left as it is: interface gnlt2" in done.stdout
    listed = done.stdout.split("removed " + str(root))[1]
    assert not any(name + "@" in listed for name in names[:2])
    assert "gnlt2" in listed and "gnlt3@" in listed
