"""Run the project's tests as CI does: units in parallel, then the emulation tests one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gnl.topologies.errors import UsageError

CHECKOUT = Path(__file__).resolve().parents[1]
UNIT_WORKERS = 2
NONE_COLLECTED = 5  # pytest's exit status where the arguments select nothing


def run_tests(arguments: Sequence[str] = (), checkout: Path = CHECKOUT) -> int:
    """Run pytest twice, with `arguments` (paths are relative to the checkout); 0 only if both halves are good.

    Raises `UsageError` where this is no checkout. Without root the second half is skipped, and says so.
    """
    if not (checkout / "tests" / "conftest.py").exists():
        raise UsageError(f"no tests in {checkout}: gnl test works in a checkout of the repository")
    with tempfile.TemporaryDirectory(prefix="gnl-test-") as scratch:
        environment = os.environ | {
            # Under sudo, nothing that only root may remove stays behind in the checkout.
            "HYPOTHESIS_STORAGE_DIRECTORY": f"{scratch}/hypothesis",
            "GNL_UNIT_SUMMARY": f"{scratch}/units",
        }
        # Each worker has one core: more threads each would only wait for one another.
        parallel = environment | {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")}
        units = _pytest(["-n", str(UNIT_WORKERS), "-m", "not emulation", *arguments], checkout, parallel)
        if units == 130:
            return units
        emulation = _pytest(["-m", "emulation", *arguments], checkout, environment)
    return _combined(units, emulation)


def _combined(units: int, emulation: int) -> int:
    statuses = [status for status in (units, emulation) if status != NONE_COLLECTED]
    return max(statuses) if statuses else NONE_COLLECTED


def _pytest(arguments: list[str], checkout: Path, environment: dict[str, str]) -> int:
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    process = subprocess.Popen(command, cwd=checkout, env=environment)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # The terminal has told pytest too: let it take its networks down and report.
        process.wait()
        return 130
    return 128 - status if status < 0 else status
