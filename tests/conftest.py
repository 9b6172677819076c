"""Emulation tests: only as root with Mininet's helper, and one at a time even where units run in parallel."""

import fcntl
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from gnl.topologies.interrupts import ENDING

UNIT_SUMMARY = "GNL_UNIT_SUMMARY"
_FIRST_STATES: dict[str, dict] = {}

# `nohup ./gnl test &` ignores these signals, and so would every program that a test means to stop by them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def _why_not_emulate() -> str | None:
    if os.geteuid() != 0:
        return "needs root: sudo ./gnl test"
    if shutil.which("mnexec") is None:
        return "needs mnexec: apt-get install mininet"
    return None


def pytest_collection_modifyitems(items):
    reason = _why_not_emulate()
    for item in items:
        if reason and item.get_closest_marker("emulation"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _one_network_at_a_time(request):
    """Two emulated networks on the same cores would falsify each other's rates."""
    if request.node.get_closest_marker("emulation") is None:
        yield
        return
    # A plain file of our own, never what somebody's link in a folder open to all points to.
    path = Path(tempfile.gettempdir(), f"gnl-emulation-test-{os.geteuid()}.lock")
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@pytest.fixture(autouse=True)
def _signals_as_before():
    """The command line takes signals and repeats them by a timer: neither may reach the next test."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _same_draws_in_any_order(request):
    """A module's RNG starts anew for each test: what a test draws must not depend on which others ran before it."""
    rng = getattr(request.module, "RNG", None)
    if rng is not None:
        rng.bit_generator.state = _FIRST_STATES.setdefault(request.module.__name__, rng.bit_generator.state)


def pytest_terminal_summary(terminalreporter, config):
    """Carry the first half's counts of `gnl test` to the end of the second, where they are looked for."""
    path = os.environ.get(UNIT_SUMMARY)
    if path is None or hasattr(config, "workerinput"):
        return
    kinds = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    counts = [f"{len(found)} {kind}" for kind in kinds if (found := terminalreporter.stats.get(kind))]
    if Path(path).exists():
        terminalreporter.section("both halves")
        terminalreporter.line(Path(path).read_text())
        terminalreporter.line(f"emulation tests: {', '.join(counts) or 'none selected'}")
    else:
        Path(path).write_text(f"unit tests: {', '.join(counts) or 'none selected'}")
