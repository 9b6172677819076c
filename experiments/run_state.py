"""Run-scoped state: the lock that lets one run at a time build networks, and the registry of what a run has made.

    /run/gnl/lock              held (flock) by the main process of the run in progress
    /run/gnl/RUN-ID/run.json   the run's id, its main process (pid and start time), when it began, its OUT folder
    /run/gnl/RUN-ID/registry   one JSON line for each process, node and interface that the run made

The folder goes at the end of a run. One that is still there while its main process is not, is what a killed run left:
`clean` works from it alone. Every process of a run also inherits GNL_RUN_ID, so that one started between a fork and
its registration is found too. A process is a pid *and* its start time, since the kernel gives pids again.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A child of a run calls it between fork and exec: preexec_fn=functools.partial(die_with_parent, os.getpid()).
from gnl.node_apps.privileges import die_with_parent as die_with_parent
from gnl.topologies.errors import MachineError, RunError
from gnl.topologies.interrupts import held_back

RUN_ROOT = Path("/run/gnl")
RUN_ID_VARIABLE = "GNL_RUN_ID"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LOCK_NAME = "lock"


@dataclass(frozen=True)
class ProcessRecord:
    """A process that a run started; `start_ticks` is field 22 of /proc/PID/stat."""

    pid: int
    start_ticks: int
    role: str = ""

    def is_alive(self) -> bool:
        """Tell whether this very process still runs (a zombie does not)."""
        return process_start_ticks(self.pid) == self.start_ticks


@dataclass
class RunRecord:
    """What the files of one run say: its main process and everything registered."""

    run_id: str
    directory: Path
    main: ProcessRecord | None = None
    since: str = ""
    out_folder: str | None = None
    processes: list[ProcessRecord] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    interfaces: list[str] = field(default_factory=list)

    def is_alive(self) -> bool:
        return self.main is not None and self.main.is_alive()


class RunState:
    """The state of the run in progress: acquire it first, register what is made, release it last.

    Use it as a context manager. `directory` is the run's own folder, for sockets and other short-lived files.
    """

    def __init__(self, run_id: str, directory: Path, lock_fd: int) -> None:
        self.run_id = run_id
        self.directory = directory
        self._lock_fd = lock_fd
        # O_APPEND and one write a line: a killed run leaves whole lines, of which the last at most is cut.
        self._registry_fd = os.open(
            directory / "registry", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )

    @classmethod
    def acquire(cls, run_id: str, out_folder: str | Path | None = None, root: Path = RUN_ROOT) -> RunState:
        """Take the machine for one run. Raises `RunError` while another has it, `MachineError` without the right to."""
        if not RUN_ID.fullmatch(run_id):
            raise RunError(f"run id {run_id!r} is not usable: give 1 to 64 letters, digits, '.', '_' or '-'")
        lock_fd = lock_runs(root)
        if lock_fd is None:
            raise RunError(f"{_who_runs(root)}: wait until it ends, or stop it")
        directory = root / run_id
        try:
            directory.mkdir(mode=0o755)
            main = ProcessRecord(os.getpid(), process_start_ticks(os.getpid()) or 0, "main")
            document = {
                "run_id": run_id,
                "pid": main.pid,
                "start_ticks": main.start_ticks,
                "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "out_folder": str(Path(out_folder).absolute()) if out_folder is not None else None,
            }
            _write_whole(directory / "run.json", json.dumps(document))
            state = cls(run_id, directory, lock_fd)
        except FileExistsError:
            os.close(lock_fd)
            raise RunError(f"run id {run_id!r} is taken by what a killed run left in {directory}: gnl clean") from None
        except OSError as error:
            os.close(lock_fd)
            shutil.rmtree(directory, ignore_errors=True)
            raise MachineError(f"cannot write in {root} ({error.strerror}): free space there, and run again") from None
        os.environ[RUN_ID_VARIABLE] = run_id
        return state

    def record_process(self, pid: int, role: str = "") -> None:
        """Register a process that this run started; one that has ended already is not worth a line."""
        start_ticks = process_start_ticks(pid)
        if start_ticks is not None:
            self._append({"process": pid, "start_ticks": start_ticks, "role": role})

    def record_nodes(self, names: Iterable[str]) -> None:
        """Register the names of the nodes whose namespaces this run makes."""
        for name in names:
            self._append({"node": name})

    def plan_interfaces(self, names: Iterable[str]) -> None:
        """Register interfaces before they are made, where that passes through the machine's own namespace.

        Raises `RunError` on a name that exists there already: it is not this run's, and `clean` must not take it.
        """
        for name in names:
            if interface_exists(name):
                raise RunError(
                    f"interface {name} exists on this machine already: rename the scenario's node, or remove it"
                )
            self._append({"interface": name})

    def release(self) -> None:
        """Forget the run: what it registered must be gone by now. Harmless when called twice."""
        if self._lock_fd < 0:
            return
        os.close(self._registry_fd)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock_fd)
        self._lock_fd = -1
        os.environ.pop(RUN_ID_VARIABLE, None)

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._registry_fd, json.dumps(entry).encode() + b"\n")

    def __enter__(self) -> RunState:
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            self.release()


def new_run_id() -> str:
    """Make a run id that sorts by time and is not given twice: 20260131-235959-1a2b3c."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def lock_runs(root: Path = RUN_ROOT) -> int | None:
    """Take the lock of all runs: its file descriptor (closing it gives it back), or None while another has it."""
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock_fd = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MachineError(f"cannot write in {root} ({error.strerror}): runs need root and a writable {root}") from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_fd)
        return None
    return lock_fd


def read_runs(root: Path = RUN_ROOT) -> list[RunRecord]:
    """Read every run that has a folder, the live one included, oldest id first."""
    if not root.is_dir():
        return []
    return [_read_run(path) for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink()]


def live_run(root: Path = RUN_ROOT) -> RunRecord | None:
    """Find the run in progress without touching its lock, so that asking can never make a run fail."""
    return next((run for run in read_runs(root) if run.is_alive()), None)


def dead_runs(root: Path = RUN_ROOT) -> list[RunRecord]:
    """Find the runs whose main process is gone. Hold the lock when acting on it: a run that starts has no main yet."""
    return [run for run in read_runs(root) if not run.is_alive()]


def process_start_ticks(pid: int) -> int | None:
    """Read when a process started, in clock ticks since boot (proc(5), stat field 22); None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, field 2, is in brackets and may itself hold spaces and brackets.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def interface_exists(name: str) -> bool:
    """Tell whether this process's network namespace has an interface of that name."""
    return Path("/sys/class/net", name).exists()


def _who_runs(root: Path) -> str:
    run = live_run(root)
    if run is None or run.main is None:
        return "another gnl is starting or cleaning up on this machine"
    return f"another run is in progress ({run.run_id}, process {run.main.pid}, since {run.since})"


def _read_run(directory: Path) -> RunRecord:
    run = RunRecord(directory.name, directory)
    try:
        document = json.loads((directory / "run.json").read_text())
        run.main = ProcessRecord(int(document["pid"]), int(document["start_ticks"]), "main")
        run.since, run.out_folder = str(document["since"]), document["out_folder"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # Killed before it was written: the folder alone is what that run left.
    try:
        lines = (directory / "registry").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _add_entry(run, line)
    return run


def _add_entry(run: RunRecord, line: str) -> None:
    try:
        entry = json.loads(line)
    except ValueError:
        return  # The line that was being written when the run was killed.
    if "process" in entry:
        run.processes.append(ProcessRecord(entry["process"], entry["start_ticks"], entry["role"]))
    elif "node" in entry:
        run.nodes.append(entry["node"])
    elif "interface" in entry:
        run.interfaces.append(entry["interface"])


def _write_whole(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)
