"""Giving up root for good, and dying with the parent: what a program does before it reads bytes from the network."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
import signal
from pathlib import Path

from gnl.topologies.errors import MachineError, UsageError

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# Groups that own GPU devices on Debian and Ubuntu; kept where the machine has them.
_DEVICE_GROUPS = ("video", "render")


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exits at once if the parent already did.

    The kernel means the thread that forked, and forgets the setting on a change of user (prctl(2)): arm it again then.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def no_core_dumps() -> None:
    """Never write a core file: a crash on a bad bitstream is expected, and the image is large."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def user_ids(user: str) -> tuple[int, int]:
    """(uid, gid) of a user by name; `UsageError` for one that does not exist, or is root."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"user {user!r} does not exist: give an unprivileged user, as nobody") from None
    if entry.pw_uid == 0:
        raise UsageError(f"user {user!r} is root: give an unprivileged user, as nobody")
    return entry.pw_uid, entry.pw_gid


def drop_root(user: str, keep_device_groups: bool) -> None:
    """Become `user` for good (all ids, groups, and no way back through set-user-id files); nothing to do without root.

    Clears the parent-death signal: call `die_with_parent` after it.
    """
    if os.geteuid() != 0:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        return
    uid, gid = user_ids(user)
    os.setgroups(_device_gids() if keep_device_groups else [])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise MachineError(f"could not drop root to {user}: the kernel kept a root id; report this machine's set-up")


def readable_by(path: Path, user: str) -> bool:
    """Whether `user` may read a file, judged by its mode and those of the folders above it (no access lists)."""
    uid, gid = user_ids(user)
    path = path.resolve()
    return _permits(path, uid, gid, 4) and all(_permits(folder, uid, gid, 1) for folder in path.parents)


def _permits(path: Path, uid: int, gid: int, bit: int) -> bool:
    facts = path.stat()
    shift = 6 if facts.st_uid == uid else 3 if facts.st_gid == gid else 0
    return bool(facts.st_mode >> shift & bit)


def _device_gids() -> list[int]:
    return [entry.gr_gid for entry in grp.getgrall() if entry.gr_name in _DEVICE_GROUPS]


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        error = ctypes.get_errno()
        raise MachineError(f"prctl({option}, {value}) failed: {os.strerror(error)}; Linux from 3.5 on is needed")
