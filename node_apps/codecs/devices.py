"""Where the networks run: the device by name, and how many CPU threads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Optional

import torch
from gnl.topologies.errors import MachineError


def resolve_device(name: str, lazily: bool = False) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`; MachineError if CUDA is asked for and there is none.

    `lazily` leaves `auto` as it is: asking for GPUs can start the CUDA runtime, which does not survive a fork.
    """
    if name == "auto":
        return name if lazily else ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise MachineError("device cuda: this machine's torch finds no GPU; choose cpu or auto")
    return name


def set_threads(threads: Optional[int]) -> None:
    """Set the CPU threads of the tensor library for the whole process; None leaves them."""
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def single_thread() -> Iterator[None]:
    """Keep the tensor library to the calling thread: worker threads started before a fork hang the child after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadChooser:
    """One thread or all of them, whichever is faster at present.

    On a machine shared with other work, a step on several threads waits at every operation for the most delayed one.
    """

    _PERIOD, _TRIAL = 60, 3

    def __init__(self, most: int) -> None:
        self._most = most
        self._spent_s = {1: 0.0, most: 0.0}
        self._tick = 0

    def before_step(self) -> None:
        """Set the thread count for the coming step."""
        tick = self._tick % self._PERIOD
        if tick == 0:
            self._spent_s = dict.fromkeys(self._spent_s, 0.0)
        if tick < 2 * self._TRIAL:
            self._now = 1 if tick < self._TRIAL else self._most
        else:
            self._now = min(self._spent_s, key=self._spent_s.get)
        torch.set_num_threads(self._now)

    def after_step(self, seconds: float) -> None:
        """Note how long the step took."""
        if self._tick % self._PERIOD < 2 * self._TRIAL:
            self._spent_s[self._now] += seconds
        self._tick += 1
