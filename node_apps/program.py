"""The conventions between a node program and the run that starts it.

A program reads one JSON file of settings, prints the line `ready` once it can do its work, works until it is told to
stop (SIGTERM) or is done, prints its statistics as one JSON line, and exits 0. What goes wrong is one line on stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from gnl.topologies.errors import GnlError

READY = "ready"


def run_program(work: Callable[[dict, threading.Event], dict]) -> int:
    """Call `work(settings, stopped)` for the settings file named on the command line and print what it returns.

    `stopped` is set by SIGTERM or SIGINT; a second one ends the program at once.
    """
    stopped = threading.Event()

    def stop(*_signal) -> None:
        if stopped.is_set():
            sys.exit(130)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    threading.excepthook = _end_at_once
    try:
        statistics = work(json.loads(Path(sys.argv[1]).read_text()), stopped)
    except (GnlError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr, flush=True)
        return 1
    print(json.dumps(statistics), flush=True)
    return 0


def _end_at_once(failure) -> None:
    """A thread that fails takes the program with it: half a program would lose packets and nobody would be told."""
    what = f"{failure.exc_type.__name__}: {failure.exc_value}".replace("\n", " ")
    name = failure.thread.name if failure.thread else "unknown"
    print(f"{Path(sys.argv[0]).stem}: thread {name} failed: {what}", file=sys.stderr, flush=True)
    os._exit(1)


def announce_ready() -> None:
    """Tell the run that this program can do its work."""
    print(READY, flush=True)


def wait_for(threads: list[threading.Thread]) -> None:
    """Join threads while signals go on being handled (a join without a limit would hold them up)."""
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
