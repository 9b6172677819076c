"""The OUT folder of a run: made ready without touching what is not ours, and given to whoever asked for the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from gnl.topologies.errors import RunError, UsageError

RESULT_FILES, RESULT_FOLDERS = ("result.json", "report.html", "series.json"), ("received", "images", "pcap")
# Says that what lies in OUT under these names is ours to remove, and how many of OUT and its parents we made.
OUT_MARK = ".gnl-out"


def default_out() -> Path:
    """runs/TIME in the current folder."""
    return Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")


def prepare_out(out: Path) -> None:
    """Make OUT, and remove an earlier result from it: what is there after a failed run must not look like one.

    Raises `UsageError` where files of these names are there that no run wrote (a user's own folder `images`, say).
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = [name for name in (*RESULT_FILES, *RESULT_FOLDERS) if os.path.lexists(out / name)]
        if found and not (out / OUT_MARK).exists():
            raise UsageError(
                f"{out} holds {found[0]!r}, which no run of gnl wrote: give another --out, or an empty folder"
            )
        if not (out / OUT_MARK).exists():
            (out / OUT_MARK).write_text(str(len(made)))
        for name in RESULT_FILES:
            (out / name).unlink(missing_ok=True)
        for name in RESULT_FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
        probe = out / ".space"
        try:
            probe.write_bytes(bytes(1 << 20))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out} ({error.strerror}): free space there, or give another --out") from None


def give_to_caller(out: Path) -> None:
    """Under sudo, hand the results to whoever called it: nobody should need root to move a picture.

    Only what the run made: OUT may be a folder that was there before, with other things in it.
    """
    if "SUDO_UID" in os.environ:
        folders = [out / name for name in RESULT_FOLDERS]
        ours = [out / name for name in (*RESULT_FILES, OUT_MARK)] + folders + [p for f in folders for p in f.rglob("*")]
        mark = (out / OUT_MARK).read_text()
        hand_over([*ours, *(out, *out.parents)[: int(mark) if mark.isdigit() else 0]])


def hand_over(paths: Iterable[Path]) -> None:
    """Under sudo, make whoever called it the owner of those of `paths` that are there."""
    if "SUDO_UID" in os.environ:
        owner = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
        for path in paths:
            if os.path.lexists(path):
                os.chown(path, *owner, follow_symlinks=False)
