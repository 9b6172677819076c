"""How much of this machine's CPU time other programs took while we measured something."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Above this share, a speed measured meanwhile is that of a busy machine.
BUSY_SHARE = 0.10
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class OtherLoad:
    """Measures from its making on; `share` is the part, 0 to 1, of all cores' time that others took since.

    Time that a hypervisor gave to other guests counts as theirs. The kernel counts in hundredths of a second: over much
    less than a second the share says little.
    """

    def __init__(self) -> None:
        self._total, self._used = _cpu_ticks()
        self._own_s = time.process_time()

    def share(self) -> float:
        total, used = _cpu_ticks()
        passed = total - self._total
        own = (time.process_time() - self._own_s) * _TICKS_PER_S
        return min(1.0, max(0.0, (used - self._used - own) / passed)) if passed else 0.0


def _cpu_ticks() -> tuple[int, int]:
    """Ticks of all cores since boot: all, and those in which something ran or the core was taken away."""
    times = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, io_wait = times[3], times[4]
    return sum(times), sum(times) - idle - io_wait
