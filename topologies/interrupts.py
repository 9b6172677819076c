"""Holding signals back while something is taken down, so that an impatient second Ctrl-C leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

IMPATIENT = 4
# SIGALRM: the command line uses it to repeat an interrupt that was lost.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Put off the Python handlers of these signals until the block has ended; the first that came is then delivered.

    A block that hangs can still be left: the IMPATIENT-th signal is delivered at once.

    Outside the main thread, which alone handles signals, nothing is done. A signal mask would not do: the kernel gives
    a process's signal to any thread that has not masked it, and the handler then still runs in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    ours = [number for number, handler in handlers.items() if callable(handler)]

    def put_off(number, frame) -> None:
        came.append(number)
        if len(came) >= IMPATIENT:
            handlers[number](number, frame)

    for number in ours:
        signal.signal(number, put_off)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number])
        if came:
            signal.raise_signal(came[0])
