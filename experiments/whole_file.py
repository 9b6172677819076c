"""A file that appears whole or not at all: written beside its place under another name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from gnl.topologies.errors import UsageError
from gnl.topologies.interrupts import held_back


def require_place(path: Path, *sources: Path) -> None:
    """UsageError unless a file can be put at `path`: a folder must be there, and none of `sources` overwritten."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the file to write")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(f"{path} is what is read: name another file to write")


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` as cp does: through links, keeping the mode of a file that was there; OSError otherwise.

    An error or a signal leaves what was there before. Devices and pipes are written to directly.
    """
    try:
        before = path.stat() if path.exists() else None
        if before is not None and not stat.S_ISREG(before.st_mode):
            path.write_bytes(data)  # by the name given: what /dev/stdout leads to may have none of its own
            return
        place = Path(os.path.realpath(path))
        if before is not None and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with held_back():
            _replace(place, data, before)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(place: Path, data: bytes, before: os.stat_result | None) -> None:
    beside = place.with_name(f".gnl-{secrets.token_hex(8)}.part")
    try:
        beside.write_bytes(data)
        if before is not None:
            with contextlib.suppress(PermissionError):
                os.chown(beside, before.st_uid, before.st_gid)
            beside.chmod(stat.S_IMODE(before.st_mode))
        os.replace(beside, place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
