"""The one family of errors.

    GnlError                 every error that gnl raises on purpose
    ├── UsageError           the caller asked for something that cannot be asked      (exit 2)
    │   ├── ScenarioError    a scenario, or a key, node or capacity in it, is wrong
    │   └── CodecError       a codec, its weights or an image handed to it is wrong
    ├── MachineError         this machine lacks or refuses something                  (exit 1)
    ├── BitstreamError       bytes from the network do not decode: counted, not fatal
    └── RunError             a run cannot go on                                       (exit 1)

A message names the value it got, says what is accepted, and what to do next, in one line.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator


class GnlError(Exception):
    """Base of the family; `exit_status` is what the command line ends with."""

    exit_status = 1


class UsageError(GnlError):
    """The caller asked for something that cannot be asked."""

    exit_status = 2


class ScenarioError(UsageError):
    """A scenario, or a key, node or capacity in it, is wrong."""


class CodecError(UsageError):
    """A codec, its weights or an image handed to it is wrong."""


class MachineError(GnlError):
    """This machine lacks or refuses something that the command needs."""


class BitstreamError(GnlError):
    """Bytes that came from the network do not decode."""


class RunError(GnlError):
    """A run cannot go on; the network it built has been taken down."""


@contextmanager
def within_memory(message: str) -> Iterator[None]:
    """MachineError with `message` where the block runs out of memory; the tensor library says so by a RuntimeError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise MachineError(message) from error
