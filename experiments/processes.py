"""The processes of a run: started in a node or on the host, registered, and all gone when the run ends.

Each dies with the run's main process (by the kernel, on SIGKILL too) and leads a session of its own, so that Ctrl-C at
the terminal reaches the run alone, which then takes its processes down in order.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from gnl.node_apps.program import READY
from gnl.topologies.errors import RunError
from gnl.topologies.interrupts import held_back
from gnl.topologies.network import EmulatedNetwork

from .run_state import RunState, die_with_parent

STOP_LIMIT_S = 5.0
# The network's programs go before the decoder's arithmetic: a slow decoder then shows as R_g, not as a slow link.
NETWORK_NICE, DECODER_NICE = -10, 5


class Processes:
    """Context manager over every process of a run."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._started: list[subprocess.Popen] = []
        self._programs = 0

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_exception) -> None:
        with held_back():
            self.stop(self._started)

    def start(self, command: list[str], role: str, nice: int = 0, **streams) -> subprocess.Popen:
        """Start a registered process; call from the main thread (the kernel ties its life to the calling thread)."""

        parent_pid = os.getpid()

        def prepare() -> None:
            die_with_parent(parent_pid)
            if nice:
                os.setpriority(os.PRIO_PROCESS, 0, nice)

        streams.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(command, preexec_fn=prepare, start_new_session=True, **streams)
        # Those that have ended are forgotten, and their pipes with them: a run of many repeats starts thousands.
        self._started = [*(earlier for earlier in self._started if earlier.poll() is None), process]
        self.state.record_process(process.pid, role)
        return process

    def program(self, network: EmulatedNetwork, node: str, module: str, settings: dict) -> Program:
        """Start a node program in a node, with these settings."""
        self._programs += 1
        path = self.state.directory / f"{node}-{module}-{self._programs}.json"
        path.write_text(json.dumps(settings))
        command = network.inside(node, sys.executable, "-m", f"gnl.node_apps.{module}", str(path))
        process = self.start(
            command, f"{module} in {node}", NETWORK_NICE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return Program(process, f"{module} in {node}")

    def stop(self, processes: list[subprocess.Popen]) -> None:
        """End these processes: SIGTERM, then SIGKILL for those that do not heed it; all are reaped."""
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            process.terminate()
        deadline_s = time.monotonic() + STOP_LIMIT_S
        for process in alive:
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Program:
    """A node program under way; see `node_apps.program` for what it says and when."""

    def __init__(self, process: subprocess.Popen, role: str) -> None:
        self.process, self.role = process, role
        self._said = b""

    def wait_ready(self, limit_s: float = 20.0) -> None:
        """Wait for the line that says it can work; raises `RunError` with its own complaint where it cannot."""
        if self._line(limit_s) != READY:
            raise RunError(self._complaint("did not become ready"))

    def wait_json(self, limit_s: float) -> dict:
        """Wait for its first line, a JSON document, and return it."""
        line = self._line(limit_s)
        if line is None:
            raise RunError(self._complaint(f"said nothing within {limit_s:.0f} s"))
        try:
            return json.loads(line)
        except ValueError:
            raise RunError(
                self._complaint("ended before it was ready" if not line else f"said {line[:80]!r}")
            ) from None

    def require_alive(self) -> None:
        """Raise `RunError` with the program's own complaint if it has ended."""
        if self.process.poll() not in (None, 0):
            raise RunError(self._complaint("ended early"))

    def wait(self, limit_s: float) -> dict:
        """Wait until it is done by itself and return its statistics."""
        line = self._line(limit_s)
        if not line:
            raise RunError(self._complaint("ended early" if line == "" else f"was not done within {limit_s:.0f} s"))
        try:
            statistics = json.loads(line)
        except ValueError:
            raise RunError(self._complaint("gave no statistics")) from None
        self.process.wait(STOP_LIMIT_S)
        return statistics

    def stop(self, limit_s: float = 30.0) -> dict:
        """Tell it to stop and return its statistics."""
        self.process.terminate()
        return self.wait(limit_s)

    def _line(self, limit_s: float) -> str | None:
        deadline_s = time.monotonic() + limit_s
        while b"\n" not in self._said:
            wait_s = deadline_s - time.monotonic()
            if wait_s <= 0 or not select.select([self.process.stdout], [], [], wait_s)[0]:
                return None
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                return ""
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def _complaint(self, what: str) -> str:
        if self.process.poll() is None:
            try:
                self.process.wait(0.5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        said = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return f"{self.role} {what}" + (f": {said[-1]}" if said else "")


def decoder_socket(processes: Processes) -> Path:
    """Where the decoder service of a run listens."""
    return processes.state.directory / "decoder.sock"


def python_module(module: str, *arguments: str | Path) -> list[str]:
    """Command line of one of our modules, run by this interpreter."""
    return [sys.executable, "-m", f"gnl.{module}", *map(str, arguments)]
