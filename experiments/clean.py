"""Remove what a killed run left, and nothing else: its processes, its interfaces, its folder under /run/gnl."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from gnl.experiments import run_state
from gnl.experiments.run_state import RUN_ID_VARIABLE, RUN_ROOT, ProcessRecord, RunRecord
from gnl.topologies.errors import MachineError

END_WITHIN_S = 5.0
# A process may start another while it is being ended: look again until none is found.
ROUNDS = 3


def clean(root: Path = RUN_ROOT, say: Callable[[str], None] = print) -> int:
    """Remove what dead runs left and say what was removed; the exit status of `gnl clean`.

    0: all clean now. 1: a run is in progress (nothing is touched), or something could not be removed. Needs root
    wherever there is something to remove: raises `MachineError` without it.
    """
    if not root.is_dir() or (not run_state.read_runs(root)):
        say("nothing to clean")
        return 0
    if not os.access(root, os.W_OK):
        raise MachineError("gnl clean needs root: sudo ./gnl clean")
    lock_fd = run_state.lock_runs(root)
    if lock_fd is None:
        run = run_state.live_run(root)
        who = f"run {run.run_id} (process {run.main.pid})" if run and run.main else "another gnl"
        say(f"{who} is in progress: nothing touched")
        return 1
    try:
        dead = run_state.dead_runs(root)
        if not dead:
            say("nothing to clean")
        return 0 if all([_clean_run(run, say) for run in dead]) else 1
    finally:
        os.close(lock_fd)


def leftovers(root: Path = RUN_ROOT) -> list[str]:
    """Name what dead runs left, one phrase a run, for `gnl doctor`."""
    found = []
    for run in run_state.dead_runs(root):
        count = len(_processes_of(run))
        found.append(f"run {run.run_id}: {count} process{'' if count == 1 else 'es'}")
    return found


def _clean_run(run: RunRecord, say: Callable[[str], None]) -> bool:
    done = True
    ended_any = False
    for _ in range(ROUNDS):
        processes = _processes_of(run)
        if not processes:
            break
        for process in processes:
            ended = _kill(process)
            done &= ended
            ended_any |= ended
            what = f"process {process.pid} ({process.role or 'unnamed'}) of run {run.run_id}"
            say(f"ended {what}" if ended else f"could not end {what}: see `ps {process.pid}`")
    if ended_any and run.nodes:
        say(f"with them went the namespaces of {', '.join(run.nodes)}")
    for name in run.interfaces:
        done &= _remove_interface(name, run, say)
    if done:
        shutil.rmtree(run.directory, ignore_errors=True)
        say(f"removed {run.directory}")
    if run.out_folder and Path(run.out_folder).exists():
        say(f"left as it is: {run.out_folder}, the unfinished output of run {run.run_id}")
    return done


def _processes_of(run: RunRecord) -> list[ProcessRecord]:
    """List the live processes of a run: those registered, and those that carry its id in their environment."""
    found = {record.pid: record for record in run.processes if record.is_alive()}
    wanted = f"{RUN_ID_VARIABLE}={run.run_id}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in found:
            continue
        try:
            carries = wanted in (entry / "environ").read_bytes().split(b"\0")
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue  # Ended meanwhile, or another user's.
        start_ticks = run_state.process_start_ticks(int(entry.name))
        if carries and start_ticks is not None:
            found[int(entry.name)] = ProcessRecord(int(entry.name), start_ticks, name)
    own = _ancestry(os.getpid())
    return [found[pid] for pid in sorted(found) if pid not in own]


def _ancestry(pid: int) -> set[int]:
    """This process and those above it: `gnl clean` typed in a shell that a killed run left must not end itself."""
    found = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            break
        pid = int(status.split("PPid:")[1].split()[0])
    return found


def _kill(process: ProcessRecord) -> bool:
    """End one process for good. The pid is held through a pidfd, so that no successor can be hit."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if process.is_alive():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        # A pidfd becomes readable when the process has ended.
        return bool(select.select([pidfd], [], [], END_WITHIN_S)[0])
    except (ProcessLookupError, PermissionError):
        return not process.is_alive()
    finally:
        os.close(pidfd)


def _remove_interface(name: str, run: RunRecord, say: Callable[[str], None]) -> bool:
    """Delete one interface that the run planned, if it is there and is a veth; its peer goes with it."""
    if not run_state.interface_exists(name):
        return True
    listed = subprocess.run(["ip", "-o", "link", "show", "dev", name, "type", "veth"], capture_output=True, text=True)
    if listed.returncode != 0 or not listed.stdout.strip():
        say(f"left as it is: interface {name}, named by run {run.run_id} but no veth")
        return True
    removed = subprocess.run(["ip", "link", "delete", "dev", name], capture_output=True, text=True)
    if removed.returncode == 0 or not run_state.interface_exists(name):
        say(f"removed interface {name} of run {run.run_id}")
        return True
    say(f"could not remove interface {name} of run {run.run_id}: {removed.stderr.strip()}")
    return False
