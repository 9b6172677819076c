"""OUT of a training: the files in it, its log, and that only one training uses it at a time.

    checkpoint.pt                   what --resume goes on from
    NAME.safetensors, NAME.json     the codec of the averaged weights, and how it was trained
    pictures.png                    held-out photographs through that codec
    train.log                       a JSON object a line: `time` (UTC), `event`, and what belongs to it
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from gnl.topologies.errors import RunError, UsageError


class TrainingFolder:
    """The files of one training, whose log nobody else writes."""

    def __init__(self, out: Path, name: str, log: BinaryIO | None = None) -> None:
        self._out = out
        self.checkpoint = out / "checkpoint.pt"
        self.codec = out / f"{name}.safetensors"
        self.pictures = out / "pictures.png"
        self._log = log

    def require(self, resume: bool) -> None:
        """UsageError unless there is a checkpoint, for a training that goes on, or none of its files otherwise, in a
        folder that is one or can be made."""
        made = next(path for path in (self._out, *self._out.absolute().parents) if path.exists())
        if not made.is_dir() or not os.access(made, os.W_OK):
            raise UsageError(f"--out {self._out}: {made} is no folder that you may write to; give another --out")
        if resume:
            if not self.checkpoint.is_file():
                raise UsageError(f"{self.checkpoint} is not there: leave out --resume, or give the OUT of a training")
            return
        for path in (self.checkpoint, self.codec, self.codec.with_suffix(".json"), self.pictures):
            if path.exists():
                raise UsageError(f"{path} is there already: go on with it by --resume, or give another --out")

    def log(self, event: str, **facts) -> None:
        """Append a line to the log; a full disk loses the line, not the training."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts})
        try:
            self._log.write(line.encode() + b"\n")
        except OSError:
            pass


@contextmanager
def claimed(out: Path, name: str, resume: bool) -> Iterator[TrainingFolder]:
    """Make OUT, and hold it until the block ends, by a lock on its log that ends with the process.

    RunError if it cannot be written to or another training has it; UsageError as `TrainingFolder.require`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        log = open(out / "train.log", "ab", buffering=0)
    except OSError as error:
        raise RunError(f"cannot write to {out} ({error.strerror}): give another --out") from error
    with log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{out}: another training is writing there; wait, end it, or give another --out") from None
        except OSError as error:
            raise RunError(f"{out} cannot be locked ({error.strerror}): give an --out on a local disk") from error
        folder = TrainingFolder(out, name, log)
        folder.require(resume)
        yield folder
