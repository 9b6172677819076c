"""Kernel counters over a run, as `series.json` holds them, turned into rates: over bins for a figure, over windows.

The counters are cumulative bytes of the a to b direction of each link, sampled about 20 times a second. A rate over any
interval is the difference of the counter at its two ends, interpolated linearly between the samples around each end, so
that the sum over bins is exact and no sample is counted twice.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .report_values import is_number

MIN_BIN_S, MAX_BIN_S = 0.5, 5.0
MAX_BINS = 600
# A bin holds at least so many full-size packets at capacity, so that a packet more or less stays a small step.
PACKETS_PER_BIN = 40
FULL_PACKET_BITS = 1500 * 8


@dataclass(frozen=True)
class Window:
    """A measured window of a phase, in seconds from the run's start; `discarded` says why, or is empty.

    `flows_bps`: what the run measured in it, by link (its estimate is finer than a difference of two samples).
    """

    t0_s: float
    t1_s: float
    discarded: str = ""
    flows_bps: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A phase of a run (calibrate, replicate, generate) and its windows."""

    name: str
    repeat: int
    t0_s: float
    t1_s: float
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Series:
    """Samples of a run: times in s, cumulative bytes received at the far end of each link, stolen CPU as a fraction."""

    phases: tuple[Phase, ...]
    t_s: tuple[float, ...]
    link_bytes: dict[str, tuple[float, ...]]
    stolen_cpu: tuple[float, ...]

    @property
    def span_s(self) -> tuple[float, float]:
        """First and last moment that a sample or a phase touches."""
        moments = [*self.t_s[:1], *self.t_s[-1:], *(p.t0_s for p in self.phases), *(p.t1_s for p in self.phases)]
        return min(moments), max(moments)

    def bytes_at(self, link: str, moment_s: float) -> float | None:
        """The counter at a moment, or None outside the samples."""
        if not self.t_s or not self.t_s[0] <= moment_s <= self.t_s[-1]:
            return None
        counter = self.link_bytes[link]
        after = min(bisect_right(self.t_s, moment_s), len(self.t_s) - 1)
        t0, t1 = self.t_s[after - 1], self.t_s[after]
        if t1 == t0:
            return counter[after]
        return counter[after - 1] + (counter[after] - counter[after - 1]) * (moment_s - t0) / (t1 - t0)

    def rate_bps(self, link: str, t0_s: float, t1_s: float) -> float | None:
        """Mean rate of a link over an interval, or None where it leaves the samples or a counter ran backwards."""
        if t1_s <= t0_s or link not in self.link_bytes:
            return None
        start, end = self.bytes_at(link, t0_s), self.bytes_at(link, t1_s)
        return None if start is None or end is None or end < start else 8 * (end - start) / (t1_s - t0_s)

    def window_bps(self, link: str, window: Window) -> float | None:
        """Mean rate of a link in a window: the run's own figure, or the counters' difference where it gave none."""
        measured = window.flows_bps.get(link)
        return self.rate_bps(link, window.t0_s, window.t1_s) if measured is None else measured

    def binned_bps(self, link: str, capacity_bps: float | None) -> tuple[float, list[tuple[float, float | None]]]:
        """Bin width in s, and (middle of the bin in s, mean rate in bit/s or None) for each bin of the samples.

        A bin that holds no sample (the sampler stalled) has no rate: the figure shows a gap, not an invented line.
        """
        if len(self.t_s) < 2:
            return MIN_BIN_S, []
        start, end = self.t_s[0], self.t_s[-1]
        width = max(MIN_BIN_S, (end - start) / MAX_BINS)
        if capacity_bps:
            width = max(width, min(MAX_BIN_S, PACKETS_PER_BIN * FULL_PACKET_BITS / capacity_bps))
        points: list[tuple[float, float | None]] = []
        for index in range(int((end - start) / width + 1e-9)):
            t0, t1 = start + index * width, min(start + (index + 1) * width, end)
            sampled = bisect_right(self.t_s, t1) > bisect_right(self.t_s, t0)
            points.append(((t0 + t1) / 2, self.rate_bps(link, t0, t1) if sampled else None))
        return width, points


def read_series(path: Path) -> Series:
    """Read `series.json`.

    Raises `OSError` where it cannot be read and `ValueError`, in one line, where it is not what a run writes.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise ValueError(f"it holds {type(tree).__name__}, not a mapping")
    times = _numbers(tree.get("t"), "t")
    if any(later < earlier for earlier, later in zip(times, times[1:])):
        raise ValueError("its times run backwards")
    links = {
        str(name): _counter(name, value, len(times)) for name, value in _mapping(tree.get("links"), "links").items()
    }
    stolen = _numbers(tree.get("stolen_cpu") or [], "stolen_cpu")
    if not isinstance(tree.get("phases") or [], list):
        raise ValueError("phases is not a list")
    return Series(tuple(_phase(value) for value in tree.get("phases") or []), times, links, stolen)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a mapping")
    return value


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(is_number(item) for item in value):
        raise ValueError(f"{where} is not a list of numbers")
    return tuple(value)


def _counter(name: Any, value: Any, samples: int) -> tuple[float, ...]:
    """What arrived at the far end; what left the near end where that was not recorded."""
    both = _mapping(value, f"links.{name}")
    counter = _numbers(both.get("rx_bytes") or both.get("tx_bytes"), f"links.{name}.rx_bytes")
    if len(counter) != samples:
        raise ValueError(f"links.{name} has {len(counter)} samples for {samples} times")
    return counter


def _phase(value: Any) -> Phase:
    phase = _mapping(value, "a phase")
    t0, t1 = _numbers([phase.get("t0"), phase.get("t1")], "a phase's t0, t1")
    windows = []
    for window in phase.get("windows") or []:
        if not isinstance(window, list) or len(window) not in (3, 4):
            raise ValueError("a window is not [t0, t1, verdict], with flows or without")
        start, end = _numbers(window[:2], "a window's ends")
        verdict = str(window[2])
        reason = "" if verdict == "ok" else verdict.removeprefix("discarded").strip(": ") or "no reason given"
        flows = _mapping(window[3], "a window's flows") if len(window) == 4 else {}
        windows.append(Window(start, end, reason, {link: bps for link, bps in flows.items() if is_number(bps)}))
    repeat = phase.get("repeat")
    return Phase(str(phase.get("name", "?")), repeat if isinstance(repeat, int) else 0, t0, t1, tuple(windows))
